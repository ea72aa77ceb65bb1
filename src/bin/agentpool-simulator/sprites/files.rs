//! The filesystem API (sprites.md 3.7), over the sprite's disk.

use crate::sprites::answer::Answer;
use crate::sprites::ask::Ask;
use crate::sprites::machine::{Machine, copy_tree};
use crate::world::Sim;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

type Outcome = io::Result<Answer>;

/// What a call is about.
struct Call<'a> {
    sim: &'a Sim,
    machine: Machine,
    ask: &'a Ask,
    body: Value,
}

/// Answers one call.
pub fn answer(sim: &Sim, id: &str, ask: &Ask) -> Answer {
    let machine = match Machine::of(sim, id) {
        Ok(machine) => machine,
        Err(error) => return failed(&error, ""),
    };
    let body = if ask.operation == "fsWrite" {
        Value::Null
    } else {
        ask.json()
    };
    let call = Call {
        sim,
        machine,
        ask,
        body,
    };
    let subject = call
        .given("path")
        .or_else(|| call.given("source"))
        .unwrap_or_default();
    if subject.is_empty() {
        return failed(&io::Error::from(io::ErrorKind::InvalidInput), "");
    }
    let outcome = match ask.operation {
        "fsRead" => call.read(&subject),
        "fsWrite" => call.write(&subject),
        "fsList" => call.list(&subject),
        "fsDelete" => call.delete(&subject),
        "fsRename" => call.rename(&subject),
        "fsCopy" => call.copy(&subject),
        "fsChmod" => call.chmod(&subject),
        // Everything belongs to the one user there is.
        _ => call.affected(&subject, |_| Ok(())),
    };
    outcome.unwrap_or_else(|error| failed(&error, &subject))
}

/// Code and status of an error.
fn failed(error: &io::Error, path: &str) -> Answer {
    use io::ErrorKind;
    let (code, status) = match error.kind() {
        ErrorKind::NotFound => ("ENOENT", 404),
        ErrorKind::AlreadyExists => ("EEXIST", 409),
        ErrorKind::DirectoryNotEmpty => ("ENOTEMPTY", 409),
        ErrorKind::NotADirectory => ("ENOTDIR", 400),
        ErrorKind::IsADirectory => ("EISDIR", 400),
        ErrorKind::PermissionDenied => ("EACCES", 403),
        ErrorKind::InvalidInput => ("EINVAL", 400),
        _ => ("EIO", 500),
    };
    Answer::json(
        status,
        &json!({"error": error.to_string(), "code": code, "path": path}),
    )
}

impl Call<'_> {
    /// A parameter of the query or of the body.
    fn given(&self, key: &str) -> Option<String> {
        let query = self.ask.query.get(key).map(str::to_owned);
        query.or_else(|| match &self.body[key] {
            Value::String(text) => Some(text.clone()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => None,
        })
    }

    fn flag(&self, key: &str) -> bool {
        matches!(self.given(key).as_deref(), Some("true" | "1"))
    }

    /// The path as the sprite has it, and where it lies.
    fn place(&self, path: &str) -> (String, PathBuf) {
        let whole = if path.starts_with('/') {
            path.to_owned()
        } else {
            let dir = self.given("workingDir").unwrap_or_else(|| "/".to_owned());
            format!("{}/{path}", dir.trim_end_matches('/'))
        };
        // No way out of the disk.
        let mut parts: Vec<&str> = Vec::new();
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                name => parts.push(name),
            }
        }
        let whole = format!("/{}", parts.join("/"));
        let place = self.machine.place(&whole);
        (whole, place)
    }

    fn read(&self, path: &str) -> Outcome {
        let (_, place) = self.place(path);
        if place.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Answer::bytes(fs::read(place)?))
    }

    fn write(&self, path: &str) -> Outcome {
        let (whole, place) = self.place(path);
        if place.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let parents = self.given("mkdirParents").or_else(|| self.given("mkdir"));
        if parents.as_deref() != Some("false")
            && let Some(parent) = place.parent()
        {
            fs::create_dir_all(parent)?;
        }
        let mode = mode(self.given("mode").as_deref().unwrap_or("0644"))?;
        // Replaced as a whole: a reader sees the old file or the new one.
        let fresh = place.with_file_name(format!(
            ".{}.sim-new",
            place.file_name().unwrap_or_default().to_string_lossy()
        ));
        fs::write(&fresh, &self.ask.request.body)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))?;
        fs::rename(&fresh, &place)?;
        let size = self.ask.request.body.len();
        Ok(Answer::json(
            200,
            &json!({"path": whole, "size": size, "mode": format!("{mode:04o}")}),
        ))
    }

    fn list(&self, path: &str) -> Outcome {
        let (whole, place) = self.place(path);
        let mut entries = Vec::new();
        if fs::symlink_metadata(&place)?.is_dir() {
            self.children(&whole, &place, &mut entries)?;
        } else {
            entries.push(self.entry(&whole, &place)?);
        }
        if let Some(pattern) = self.given("pattern").filter(|p| !p.is_empty()) {
            entries.retain(|e| fits(&pattern, e["name"].as_str().unwrap_or_default()));
        }
        Ok(Answer::json(
            200,
            &json!({"path": whole, "entries": entries, "count": entries.len()}),
        ))
    }

    fn children(&self, whole: &str, place: &Path, into: &mut Vec<Value>) -> io::Result<()> {
        let mut found: Vec<_> = fs::read_dir(place)?.flatten().collect();
        found.sort_by_key(fs::DirEntry::file_name);
        for child in found {
            let name = child.file_name().to_string_lossy().into_owned();
            let path = format!("{}/{name}", whole.trim_end_matches('/'));
            let entry = self.entry(&path, &child.path())?;
            let is_dir = entry["isDir"] == json!(true);
            into.push(entry);
            if is_dir && self.flag("recursive") {
                self.children(&path, &child.path(), into)?;
            }
        }
        Ok(())
    }

    fn entry(&self, path: &str, place: &Path) -> io::Result<Value> {
        let about = fs::symlink_metadata(place)?;
        let kind = match about.file_type() {
            t if t.is_dir() => "directory",
            t if t.is_symlink() => "symlink",
            _ => "file",
        };
        let modified = about
            .modified()
            .ok()
            .and_then(|at| jiff::Timestamp::try_from(at).ok());
        let modified = modified.unwrap_or_else(|| self.sim.clock.wall(0));
        let name = path.rsplit('/').next().unwrap_or_default();
        Ok(json!({
            "name": name, "path": path, "type": kind, "size": about.len(), "isDir": about.is_dir(),
            "mode": format!("{:04o}", about.permissions().mode() & 0o7777), "modTime": modified.to_string(),
        }))
    }

    fn delete(&self, path: &str) -> Outcome {
        let (whole, place) = self.place(path);
        if !fs::symlink_metadata(&place)?.is_dir() {
            fs::remove_file(&place)?;
        } else if self.flag("recursive") {
            fs::remove_dir_all(&place)?;
        } else {
            fs::remove_dir(&place)?;
        }
        Ok(Answer::json(200, &json!({"deleted": [whole], "count": 1})))
    }

    fn rename(&self, source: &str) -> Outcome {
        let dest = self.given("dest").ok_or(io::ErrorKind::InvalidInput)?;
        let ((source, from), (dest, to)) = (self.place(source), self.place(&dest));
        fs::rename(from, to)?;
        Ok(Answer::json(200, &json!({"source": source, "dest": dest})))
    }

    fn copy(&self, source: &str) -> Outcome {
        let dest = self.given("dest").ok_or(io::ErrorKind::InvalidInput)?;
        let ((_, from), (dest, to)) = (self.place(source), self.place(&dest));
        let mut bytes = 0;
        if !from.is_dir() {
            bytes = fs::copy(from, to)?;
        } else if self.flag("recursive") {
            copy_tree(&from, &to)?;
        } else {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Answer::json(
            200,
            &json!({"copied": [dest], "count": 1, "totalBytes": bytes}),
        ))
    }

    fn chmod(&self, path: &str) -> Outcome {
        let mode = mode(&self.given("mode").unwrap_or_default())?;
        self.affected(path, |place| {
            fs::set_permissions(place, fs::Permissions::from_mode(mode))
        })
    }

    fn affected(&self, path: &str, change: impl Fn(&Path) -> io::Result<()>) -> Outcome {
        let (whole, place) = self.place(path);
        let mut changed = vec![whole.clone()];
        let is_dir = fs::symlink_metadata(&place)?.is_dir();
        change(&place)?;
        if is_dir && self.flag("recursive") {
            let mut entries = Vec::new();
            self.children(&whole, &place, &mut entries)?;
            for entry in &entries {
                let path = entry["path"].as_str().unwrap_or_default();
                if entry["type"] != "symlink" {
                    change(&self.machine.place(path))?;
                }
                changed.push(path.to_owned());
            }
        }
        Ok(Answer::json(
            200,
            &json!({"affected": changed, "count": changed.len()}),
        ))
    }
}

/// Octal digits.
fn mode(text: &str) -> io::Result<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
    mode.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// A shell's pattern of stars and question marks.
fn fits(pattern: &str, name: &str) -> bool {
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = &pattern[1..];
            name.char_indices()
                .map(|(i, _)| i)
                .chain([name.len()])
                .any(|i| fits(rest, &name[i..]))
        }
        (Some(p), Some(n)) if p == '?' || p == n => {
            fits(&pattern[p.len_utf8()..], &name[n.len_utf8()..])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{fits, mode};

    #[test]
    fn patterns_are_a_shell_s() {
        assert!(fits("*.md", "a.md") && fits("*", "") && fits("a?c", "abc") && fits("*b*", "abc"));
        assert!(!fits("*.md", "a.txt") && !fits("a", "ab") && !fits("?", ""));
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(mode("0644").ok(), Some(0o644));
        assert!(mode("9").is_err() && mode("").is_err() && mode("77777").is_err());
    }
}
