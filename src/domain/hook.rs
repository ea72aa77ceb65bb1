//! The subscriptions at a provider that tell us of its events: which there should be, and what to do next. Pure.
//!
//! A provider merges no duplicates and has no key for a repeat, so what is ours is known by its address: it is looked for
//! before one is made, and where two came to be, because an answer was lost or two processes led, the older one stays.

/// A subscription, as a provider lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hook {
    /// Its id there.
    pub id: String,
    /// Where it delivers to. More than one address, or something else than addresses: a person made it what it is.
    pub targets: Vec<Option<String>>,
    /// When it was made.
    pub created_at: Option<jiff::Timestamp>,
}

impl Hook {
    /// Whether it delivers there.
    fn delivers_to(&self, url: &str) -> bool {
        self.targets.iter().flatten().any(|t| t == url)
    }

    /// Whether it does nothing else: only such a one is ever changed or removed.
    fn is_ours(&self, url: &str) -> bool {
        matches!(self.targets.as_slice(), [Some(target)] if target == url)
    }
}

/// What to do about subscriptions; one at a time, then they are listed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Make one.
    Make,
    /// Give this one the present secret and events: a secret cannot be read back, so nobody knows which it has.
    Renew(String),
    /// Remove this one.
    Remove(String),
}

/// What to do next, so that one subscription delivers to `url` where it is `wanted`, and none of ours where it is not.
/// `renewed`: this process made or renewed it already. `None`: all is as it should be.
pub fn next(found: &[Hook], url: &str, wanted: bool, renewed: bool) -> Option<Deed> {
    let mut ours: Vec<&Hook> = found.iter().filter(|h| h.is_ours(url)).collect();
    // Two processes that look at the same time keep the same one.
    ours.sort_by_key(|h| (h.created_at.unwrap_or(jiff::Timestamp::MAX), &h.id));
    let keep = usize::from(wanted);
    if let Some(extra) = ours.get(keep) {
        return Some(Deed::Remove(extra.id.clone()));
    }
    match ours.first() {
        Some(ours) if !renewed => Some(Deed::Renew(ours.id.clone())),
        Some(_) => None,
        // One that a person made for more than this delivers here too, with whatever header it has.
        None if wanted && !found.iter().any(|h| h.delivers_to(url)) => Some(Deed::Make),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://pool.example.com/webhooks/railway";

    fn hook(id: &str, targets: &[Option<&str>], second: Option<i64>) -> Hook {
        Hook {
            id: id.to_owned(),
            targets: targets.iter().map(|t| t.map(str::to_owned)).collect(),
            created_at: second.map(|s| jiff::Timestamp::from_second(s).unwrap()),
        }
    }

    #[test]
    fn one_is_made_where_there_is_none_and_what_is_there_is_renewed_once() {
        assert_eq!(next(&[], URL, true, false), Some(Deed::Make));
        assert_eq!(
            next(&[], URL, true, true),
            Some(Deed::Make),
            "somebody removed it"
        );
        let ours = [hook("a", &[Some(URL)], Some(1))];
        assert_eq!(next(&ours, URL, true, false), Some(Deed::Renew("a".into())));
        assert_eq!(next(&ours, URL, true, true), None);
        assert_eq!(
            next(&ours, URL, false, false),
            Some(Deed::Remove("a".into()))
        );
        assert_eq!(next(&[], URL, false, true), None);
    }

    #[test]
    fn of_several_the_oldest_stays() {
        let mut all = vec![
            hook("c", &[Some(URL)], None),
            hook("b", &[Some(URL)], Some(7)),
            hook("a", &[Some(URL)], Some(7)),
        ];
        let mut gone = vec![];
        while let Some(Deed::Remove(id)) = next(&all, URL, true, true) {
            all.retain(|h| h.id != id);
            gone.push(id);
        }
        assert_eq!(
            (gone, all[0].id.as_str()),
            (vec!["b".into(), "c".into()], "a")
        );
    }

    #[test]
    fn nobody_else_s_is_touched() {
        let theirs = [
            hook(
                "other",
                &[Some("https://other.example.com/webhooks/railway")],
                Some(1),
            ),
            hook("mail", &[None], Some(1)),
        ];
        assert_eq!(next(&theirs, URL, true, false), Some(Deed::Make));
        assert_eq!(next(&theirs, URL, false, false), None);
        // Ours among other channels: a person's. It is heard, and stays as it is.
        let shared = [hook("both", &[Some(URL), None], Some(1))];
        for (wanted, renewed) in [(true, false), (true, true), (false, false)] {
            assert_eq!(
                next(&shared, URL, wanted, renewed),
                None,
                "{wanted} {renewed}"
            );
        }
    }
}
