//! Streams of events, one JSON object to a line: a 200 says that something began, `complete` that it was done.
//!
//! Pure. A stream that ends without `complete` and without `error` says nothing: the official clients take it for
//! success, and that is how a checkpoint that was never taken is recorded.

use super::wire::Event;

/// How a stream ended.
#[derive(Clone, Debug)]
pub enum End {
    /// With `complete`; all its events.
    Complete(Vec<Event>),
    /// With `error`, and what that says.
    Failed(String),
    /// Without either: nobody knows.
    Cut(Vec<Event>),
}

/// Reads a whole stream. A line that cannot be read is passed over; the last one may be half.
pub fn read(body: &[u8]) -> End {
    let mut events = Vec::new();
    for line in body.split(|b| *b == b'\n') {
        let Ok(event) = serde_json::from_slice::<Event>(line) else {
            continue;
        };
        match event.kind.as_str() {
            "error" => {
                let words = [event.error, event.data]
                    .into_iter()
                    .find(|w| !w.is_empty());
                return End::Failed(words.unwrap_or_else(|| "an error without words".to_owned()));
            }
            "complete" => {
                events.push(event);
                return End::Complete(events);
            }
            _ => events.push(event),
        }
    }
    End::Cut(events)
}

/// The id of the checkpoint that was made, as the stream tells it; `None`: it has to be looked up.
pub fn checkpoint_id(events: &[Event]) -> Option<String> {
    let line = events.iter().flat_map(|e| e.data.lines());
    let told = line
        .into_iter()
        .find_map(|l| l.trim_start().strip_prefix("ID:"));
    let told = told.and_then(|rest| rest.split_whitespace().next());
    let completed = || {
        let last = events.iter().find(|e| e.kind == "complete")?;
        let mut words = last.data.split_whitespace();
        words.find(|w| *w == "Checkpoint")?;
        let id = words.next()?;
        (words.next()? == "created").then_some(id)
    };
    told.or_else(completed).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = concat!(
        r#"{"type":"info","data":"Creating checkpoint...","time":"2026-08-10T19:42:00Z"}"#,
        "\n",
        r#"{"type":"info","data":"\nCheckpoint Details:","time":"2026-08-10T19:42:00Z"}"#,
        "\n",
        r#"{"type":"info","data":"  ID: v1","time":"2026-08-10T19:42:00Z"}"#,
        "\n",
        r#"{"type":"info","data":"  Created: 2026-08-10 19:42:00","time":"x"}"#,
        "\n",
        r#"{"type":"complete","data":"Checkpoint v1 created successfully","time":"x"}"#,
        "\n"
    );

    fn complete(body: &str) -> Vec<Event> {
        match read(body.as_bytes()) {
            End::Complete(events) => events,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_id_is_read_from_both_forms() {
        assert_eq!(checkpoint_id(&complete(LIVE)).as_deref(), Some("v1"));
        let documented = "{\"type\":\"info\",\"data\":\"Stopping services...\"}\n{\"type\":\"complete\",\"data\":\"Checkpoint v8 created\"}\n";
        assert_eq!(checkpoint_id(&complete(documented)).as_deref(), Some("v8"));
        let mute = "{\"type\":\"complete\",\"data\":\"done\"}";
        assert_eq!(checkpoint_id(&complete(mute)), None);
    }

    #[test]
    fn a_stream_cut_anywhere_is_never_complete() {
        let end = LIVE.len() - 1;
        for cut in 0..end {
            assert!(
                matches!(read(&LIVE.as_bytes()[..cut]), End::Cut(_)),
                "{cut}"
            );
        }
        assert!(matches!(read(&LIVE.as_bytes()[..end]), End::Complete(_)));
    }

    #[test]
    fn an_error_wins() {
        let body = "{\"type\":\"info\",\"data\":\"x\"}\n{\"type\":\"error\",\"error\":\"disk full\"}\n{\"type\":\"complete\",\"data\":\"y\"}\n";
        assert!(matches!(read(body.as_bytes()), End::Failed(why) if why == "disk full"));
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let body = "garbage\n\n{\"type\":\"novel\",\"data\":null}\n{\"message\":\"already running\"}\n{\"type\":\"complete\"}";
        let events = complete(body);
        assert_eq!(events.len(), 3);
        assert_eq!(events[1].message.as_deref(), Some("already running"));
    }
}
