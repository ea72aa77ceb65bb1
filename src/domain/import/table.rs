//! A table in a file: CSV with a header, one JSON object to a line, or one JSON array of objects. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Refused;

/// A record: where it stands, and its columns that have a value, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its place in the file, `line 3` or `row 2`.
    pub place: String,
    /// By the column's name; null and empty are not in it.
    pub columns: BTreeMap<String, String>,
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The records that could be read, in their order.
    pub records: Vec<Record>,
    /// Those that could not.
    pub refused: Vec<Refused>,
    /// Every column that there is, with a value or without.
    pub columns: BTreeSet<String>,
}

/// Reads a file. Err: it is no table at all.
pub fn read(text: &str) -> Result<Table, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.trim_start().chars().next() {
        None => Err("the file is empty".to_owned()),
        Some('[') => of_array(text),
        Some('{') => Ok(of_lines(text)),
        Some(_) => of_csv(text),
    }
}

fn of_array(text: &str) -> Result<Table, String> {
    let all: Vec<Value> = serde_json::from_str(text).map_err(|e| {
        // Its words may hold a value: only where it is goes on.
        format!("no JSON from line {} column {} on", e.line(), e.column())
    })?;
    let mut table = Table::default();
    for (index, value) in all.into_iter().enumerate() {
        table.add(format!("row {}", index + 1), value);
    }
    Ok(table)
}

fn of_lines(text: &str) -> Table {
    let mut table = Table::default();
    for (index, line) in text.lines().enumerate() {
        let place = format!("line {}", index + 1);
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(value) => table.add(place, value),
            Err(e) => table.refuse(
                place,
                format!(
                    "no JSON object from column {} on: one object to a line",
                    e.column()
                ),
            ),
        }
    }
    table
}

impl Table {
    fn refuse(&mut self, place: String, why: impl Into<String>) {
        self.refused.push(Refused {
            place,
            id: String::new(),
            why: why.into(),
        });
    }

    fn add(&mut self, place: String, value: Value) {
        match value {
            Value::Object(fields) => {
                self.columns.extend(fields.keys().cloned());
                let columns = texts(fields);
                self.records.push(Record { place, columns });
            }
            _ => self.refuse(place, "no JSON object: a row has its columns by name"),
        }
    }
}

fn texts(fields: Map<String, Value>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    };
    let all = fields.into_iter();
    all.filter_map(|(name, value)| Some((name, text(value).filter(|t| !t.is_empty())?)))
        .collect()
}

fn of_csv(text: &str) -> Result<Table, String> {
    let mut lines = Lines::new(text);
    let header = match lines.next() {
        Some((_, Ok(header))) => header,
        _ => return Err("no header: its first line names the columns".to_owned()),
    };
    let header: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    let columns: BTreeSet<String> = header.iter().cloned().collect();
    if columns.len() != header.len() || columns.contains("") {
        return Err("the header names a column twice, or one without a name".to_owned());
    }
    if !columns.contains("id") && !columns.contains("instance_id") {
        return Err("no column id in the first line: is it a CSV with a header?".to_owned());
    }
    let mut table = Table {
        columns,
        ..Table::default()
    };
    for (line, fields) in lines {
        let place = format!("line {line}");
        match fields {
            Err(why) => table.refuse(place, why),
            Ok(fields) if fields.len() == 1 && fields[0].is_empty() => {}
            Ok(fields) if fields.len() != header.len() => {
                let (has, wants) = (fields.len(), header.len());
                table.refuse(place, format!("{has} fields instead of {wants}"));
            }
            Ok(fields) => {
                let named = header.iter().cloned().zip(fields);
                let columns = named.filter(|(_, text)| !text.is_empty()).collect();
                table.records.push(Record { place, columns });
            }
        }
    }
    Ok(table)
}

/// The records of a CSV (RFC 4180), each with the number of the line it begins on: fields in quotes may hold commas,
/// doubled quotes and line ends.
struct Lines<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            line: 1,
        }
    }

    fn take(&mut self, bytes: usize) {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.bytes().filter(|b| *b == b'\n').count();
        self.rest = rest;
    }

    /// One field; whether another follows in the same record.
    fn field(&mut self) -> Result<(String, bool), &'static str> {
        let text = match self.rest.strip_prefix('"') {
            Some(quoted) => {
                let mut field = String::new();
                let mut rest = quoted;
                loop {
                    let end = rest.find('"').ok_or("a quote is not closed")?;
                    field.push_str(&rest[..end]);
                    rest = &rest[end + 1..];
                    match rest.strip_prefix('"') {
                        Some(after) => {
                            field.push('"');
                            rest = after;
                        }
                        None => break,
                    }
                }
                self.take(self.rest.len() - rest.len());
                field
            }
            None => {
                let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
                let field = self.rest[..end].trim_end_matches('\r').to_owned();
                self.take(end);
                field
            }
        };
        let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
        if !self.rest[..end].trim_end_matches('\r').is_empty() {
            return Err("there is text after a closing quote");
        }
        let more = self.rest[end..].starts_with(',');
        self.take((end + 1).min(self.rest.len()));
        Ok((text, more))
    }
}

impl Iterator for Lines<'_> {
    type Item = (usize, Result<Vec<String>, &'static str>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, mut fields) = (self.line, vec![]);
        loop {
            match self.field() {
                Ok((field, more)) => {
                    fields.push(field);
                    if !more {
                        return Some((line, Ok(fields)));
                    }
                }
                Err(why) => {
                    // It goes on with the next line: what is in between belongs to nothing.
                    let end = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
                    self.take(end);
                    return Some((line, Err(why)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(place: &str, columns: &[(&str, &str)]) -> Record {
        let columns = columns.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        Record {
            place: place.to_owned(),
            columns: columns.collect(),
        }
    }

    #[test]
    fn the_three_forms_of_a_table_say_the_same() {
        let csv = "id,status,instructions,n\r\na,idle,,1\r\nb,claimed,\"Say \"\"hi\"\",\nthen, wait.\",\r\n";
        let lines = "{\"id\": \"a\", \"status\": \"idle\", \"instructions\": null, \"n\": 1}\n\n{\"id\": \"b\", \"status\": \"claimed\", \"instructions\": \"Say \\\"hi\\\",\\nthen, wait.\", \"n\": null}\n";
        let array = format!("[{}]", lines.trim().replace("\n\n", ","));
        let first = [("id", "a"), ("status", "idle"), ("n", "1")];
        let second = [
            ("id", "b"),
            ("status", "claimed"),
            ("instructions", "Say \"hi\",\nthen, wait."),
        ];
        for (text, places) in [
            (csv, ["line 2", "line 3"]),
            (lines, ["line 1", "line 3"]),
            (array.as_str(), ["row 1", "row 2"]),
        ] {
            let table = read(text).unwrap();
            let want = [record(places[0], &first), record(places[1], &second)];
            assert_eq!(table.records, want, "{text}");
            assert!(table.refused.is_empty());
            let columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
            assert_eq!(columns, ["id", "instructions", "n", "status"]);
        }
    }

    #[test]
    fn a_bad_record_is_told_by_its_line_and_the_others_are_read() {
        let csv = "id,status\na,idle\nb\nc,\"idle\"x\nd,idle,\ne,idle\n";
        let table = read(csv).unwrap();
        let ids: Vec<_> = table.records.iter().map(|r| &r.columns["id"]).collect();
        assert_eq!(ids, ["a", "e"]);
        let told: Vec<_> = table
            .refused
            .iter()
            .map(|r| (r.place.as_str(), r.why.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("line 3", "1 fields instead of 2"),
                ("line 4", "there is text after a closing quote"),
                ("line 5", "3 fields instead of 2"),
            ]
        );
        let open = read("id,status\na,\"idle\nb,idle\n").unwrap();
        assert_eq!(open.refused[0].why, "a quote is not closed");
        let lines = read("{\"id\": \"a\"}\n{\"id\": \"secret-token\n[1]\n{\"id\": \"b\"}").unwrap();
        assert_eq!(lines.records.len(), 2);
        assert_eq!(lines.refused.len(), 2);
        assert!(!format!("{:?}", lines.refused).contains("secret-token"));
    }

    #[test]
    fn what_is_no_table_is_refused_whole() {
        for (text, why) in [
            ("", "the file is empty"),
            (" \n", "the file is empty"),
            ("[{\"id\": \"secret-token\"", "no JSON from line"),
            ("a,b\n1,2\n", "no column id"),
            ("id,id\n1,2\n", "names a column twice"),
            ("id,\n1,2\n", "one without a name"),
            ("\"id\n", "no header"),
        ] {
            let error = read(text).unwrap_err();
            assert!(
                error.contains(why) && !error.contains("secret-token"),
                "{text}: {error}"
            );
        }
    }
}
