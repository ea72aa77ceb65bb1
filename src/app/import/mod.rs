//! `agentpool import`: the agents of the predecessor become AgentInstances, row by row.
//!
//! Each row is recorded before it has an effect: its token in the Secret of imported tokens, then the object, which the
//! controller leaves alone while it is marked as being imported; then our owner mark on the resource, the status, and
//! the mark off. A run that ends in between is gone on with by the next one, which finds the objects by their ids.

mod place;
mod take;
mod tally;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::config::ImportOrder;
use crate::domain::import::row::{self, Rows};
use crate::domain::import::table;
use place::Place;
use tally::{End, Tally};

/// The exit code of a run that took some rows and not all.
pub const NOT_ALL_IMPORTED: u8 = 3;

/// Takes the rows over; whether every one of them is taken.
pub async fn import(order: ImportOrder) -> Result<bool> {
    let rows = read_files(&order.files)?;
    let place = Place::open(&order).await?;
    if !rows.unknown.is_empty() {
        let names: Vec<&str> = rows.unknown.iter().map(String::as_str).collect();
        println!(
            "ignored, because nothing is known about them: columns {}",
            names.join(", ")
        );
    }
    place.keep_tokens(&rows.rows).await?;
    let mut tally = Tally::new(&place, &rows);
    for refused in rows.refused {
        tally.tell(&refused.place, &refused.id, End::Refused(refused.why));
    }
    for row in &rows.rows {
        let end = place.take(row).await?;
        tally.tell(&row.place, &row.id, end);
    }
    println!("{}", tally.words());
    Ok(tally.is_whole())
}

/// Every file's rows; of several files each row says in which it stands.
fn read_files(files: &[PathBuf]) -> Result<Rows> {
    let mut tables = vec![];
    for path in files {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let mut read = table::read(&text).map_err(|why| anyhow!("{}: {why}", path.display()))?;
        if files.len() > 1 {
            let file = path.file_name().unwrap_or(path.as_os_str());
            let file = Path::new(file).display().to_string();
            let named = |place: &str| format!("{file} {place}");
            for record in &mut read.records {
                record.place = named(&record.place);
            }
            for refused in &mut read.refused {
                refused.place = named(&refused.place);
            }
        }
        tables.push(read);
    }
    Ok(row::read(tables))
}
