//! What is told of an import: a line for each row, and the counts.

use super::place::Place;
use crate::domain::import::row::Rows;

/// What became of a row.
pub(super) enum End {
    /// It is imported, or would be, and in this phase.
    Taken(&'static str),
    /// An earlier run has taken it.
    There,
    /// There is nothing to take.
    LeftOut(&'static str),
    /// It cannot be taken as it stands.
    Refused(String),
    /// Not this time.
    Failed(String),
}

/// How far the import is, for people.
#[derive(Default)]
pub(super) struct Tally {
    dry: bool,
    of: usize,
    told: usize,
    taken: usize,
    there: usize,
    left_out: usize,
    refused: usize,
    failed: usize,
}

impl Tally {
    pub(super) fn new(place: &Place, rows: &Rows) -> Self {
        let of = rows.rows.len() + rows.refused.len();
        println!(
            "{} {of} rows into AgentPool {}{}",
            if place.dry {
                "would import"
            } else {
                "importing"
            },
            place.title,
            if place.dry {
                ": nothing is written"
            } else {
                ""
            }
        );
        Self {
            dry: place.dry,
            of,
            ..Self::default()
        }
    }

    pub(super) fn tell(&mut self, place: &str, id: &str, end: End) {
        self.told += 1;
        let (count, words) = match end {
            End::Taken(phase) => {
                let verb = if self.dry {
                    "would be imported"
                } else {
                    "imported"
                };
                (&mut self.taken, format!("{verb}: {phase}"))
            }
            End::There => (&mut self.there, "is there already".to_owned()),
            End::LeftOut(why) => (&mut self.left_out, format!("left out: {why}")),
            End::Refused(why) => (&mut self.refused, format!("REFUSED: {why}")),
            End::Failed(why) => (&mut self.failed, format!("FAILED: {why}")),
        };
        *count += 1;
        let id = if id.is_empty() { "-" } else { id };
        println!("[{}/{}] {place} {id} {words}", self.told, self.of);
    }

    pub(super) fn is_whole(&self) -> bool {
        self.refused + self.failed == 0
    }

    pub(super) fn words(&self) -> String {
        let verb = if self.dry {
            "would be imported"
        } else {
            "imported"
        };
        let mut text = format!(
            "{} {verb}, {} there already, {} left out, {} refused, {} failed",
            self.taken, self.there, self.left_out, self.refused, self.failed
        );
        if self.failed > 0 {
            text.push_str(": run it again for those that failed");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Tally};

    #[test]
    fn what_was_refused_or_failed_makes_a_run_not_whole() {
        let after = |end| {
            let mut tally = Tally {
                of: 1,
                ..Tally::default()
            };
            tally.tell("rows.json:1", "a", end);
            (tally.is_whole(), tally.words())
        };
        for end in [End::Taken("Idle"), End::There, End::LeftOut("gone")] {
            let (whole, words) = after(end);
            assert!(whole && words.ends_with("0 refused, 0 failed"), "{words}");
        }
        let (whole, words) = after(End::Refused("another's".to_owned()));
        assert!(!whole && words.ends_with("1 refused, 0 failed"), "{words}");
        let (whole, words) = after(End::Failed("no answer".to_owned()));
        let again = "1 failed: run it again for those that failed";
        assert!(!whole && words.ends_with(again), "{words}");
    }
}
