//! Invite links as claims bring them. A link is a bearer secret: it is never fetched and never logged. Pure.

use super::error::ApiError;
use crate::domain::template::is_production;

const MAX_BYTES: usize = 4096;
const SLUG: std::ops::RangeInclusive<usize> = 21..=2048;

/// Refuses links of the other environment, as the predecessor did: by a substring, anywhere, in any letter case.
pub fn check_environment(url: &str, environment: &str) -> Result<(), ApiError> {
    let url = url.to_ascii_lowercase();
    if is_production(environment) && url.contains("dev.convos.org") {
        return Err(ApiError::bad_request("dev.convos.org links cannot be used in the production environment"));
    }
    if !is_production(environment) && url.contains("popup.convos.org") {
        return Err(ApiError::bad_request(format!("popup.convos.org links cannot be used in the {environment} environment")));
    }
    Ok(())
}

/// What holds of every link.
pub fn check_form(url: &str) -> Result<(), ApiError> {
    if url.is_empty() || url.len() > MAX_BYTES {
        return Err(ApiError::bad_request("joinUrl must have 1 to 4096 bytes"));
    }
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(ApiError::bad_request("joinUrl must not contain white space or control characters"));
    }
    Ok(())
}

/// `claim.validateJoinUrl: Strict`: `https://<invite domain>/v2?…i=<slug>…` or a bare slug.
pub fn check_strictly(url: &str, domains: &[String], production: bool) -> Result<(), ApiError> {
    let defaults: &[&str] =
        if production { &["popup.convos.org", "convos.org"] } else { &["dev.convos.org", "dev.popup.convos.org"] };
    let accepted = |host: &str| {
        if domains.is_empty() {
            defaults.iter().any(|d| host.eq_ignore_ascii_case(d))
        } else {
            domains.iter().any(|d| host.eq_ignore_ascii_case(d))
        }
    };
    if is_slug(url) || link_host(url).is_some_and(accepted) {
        return Ok(());
    }
    let wanted = if domains.is_empty() { defaults.join(" or ") } else { domains.join(" or ") };
    Err(ApiError::bad_request(format!("joinUrl must be an invite link (https://{wanted}/v2?i=…) or an invite slug")))
}

/// The host of a link of the one accepted form: https, no user, no port, `/v2`, exactly one `i`, not empty.
fn link_host(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (address, query) = rest.split_once('?')?;
    let (host, path) = address.split_once('/')?;
    let mut slugs = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| *key == "i");
    let one = slugs.next().is_some_and(|(_, slug)| !slug.is_empty()) && slugs.next().is_none();
    let plain = !host.is_empty() && !host.contains(['@', ':', '\\', '%']);
    (scheme.eq_ignore_ascii_case("https") && path == "v2" && one && plain).then_some(host)
}

fn is_slug(text: &str) -> bool {
    SLUG.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=*_-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_takes_one_form_and_slugs() {
        let slug = "a".repeat(21);
        for good in ["https://dev.convos.org/v2?i=abc", "HTTPS://Dev.Convos.Org/v2?x=1&i=abc", "https://dev.popup.convos.org/v2?i=a*b", &slug] {
            assert_eq!(check_strictly(good, &[], false), Ok(()), "{good}");
        }
        for bad in [
            "http://dev.convos.org/v2?i=abc",
            "https://dev.convos.org:443/v2?i=abc",
            "https://me@dev.convos.org/v2?i=abc",
            "https://evil.org/v2?i=abc",
            "https://dev.convos.org.evil.org/v2?i=abc",
            "https://evil.org\\@dev.convos.org/v2?i=abc",
            "https://dev.convos.org/v3?i=abc",
            "https://dev.convos.org/v2?i=",
            "https://dev.convos.org/v2?i=a&i=b",
            "https://dev.convos.org/v2#?i=a",
            "https://popup.convos.org/v2?i=abc",
            "convos://join/abc",
            "short",
            "https://dev.convos.org/v2",
        ] {
            assert!(check_strictly(bad, &[], false).is_err(), "{bad}");
        }
        assert!(check_strictly("https://popup.convos.org/v2?i=abc", &[], true).is_ok());
        assert!(check_strictly("https://my.org/v2?i=abc", &["my.org".into()], true).is_ok());
        assert!(check_strictly("https://popup.convos.org/v2?i=abc", &["my.org".into()], true).is_err());
    }
}
