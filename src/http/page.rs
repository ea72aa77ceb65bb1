//! The page at `/`: a small, honest placeholder until the dashboard comes. No secret, and no request to elsewhere. Its badge
//! and the line across its top have the environment's colour: nobody shall take production for a toy.

use axum::http::header;
use axum::response::{IntoResponse, Response};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /`, for an environment of that name.
pub fn index(environment: &str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    let page = include_str!("page/index.html").replace("{environment}", &escaped(environment));
    (headers, page).into_response()
}

/// For text and for attributes in double quotes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// `GET /assets/page.js`.
pub fn script() -> Response {
    (
        [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")],
        include_str!("page/page.js"),
    )
        .into_response()
}

/// `GET /assets/page.css`.
pub fn style() -> Response {
    (
        [(header::CONTENT_TYPE, "text/css; charset=utf-8")],
        include_str!("page/page.css"),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn an_environments_name_is_text_and_nothing_else() {
        assert_eq!(escaped("staging"), "staging");
        assert_eq!(escaped(r#""><script>&"#), "&quot;&gt;&lt;script&gt;&amp;");
    }
}
