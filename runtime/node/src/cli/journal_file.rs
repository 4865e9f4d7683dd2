//! Journals as files: export of an epic's shard, and `verify --journal` without any cluster.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::EpicId;
use amphi_verify::Checker;
use serde_json::{Value, json};

use super::client::Client;
use super::epic::ask_epic;
use super::failure::{Failure, exit};
use super::lines;
use super::screen::{Screen, items, talk};

/// Longest line of an export: a record, a specification, quoted once more.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Lines per request.
const LINES_PAGE: u64 = 200;

/// Where an export goes.
enum Target {
    Screen(Screen),
    File { path: PathBuf, file: BufWriter<File> },
}

impl Target {
    fn write(&mut self, text: &str) -> Result<(), Failure> {
        match self {
            Self::Screen(screen) => screen.write(text),
            Self::File { path, file } => file.write_all(text.as_bytes()).map_err(|error| Failure::file("write", path, &error)),
        }
    }
}

/// Writes the journal of an epic as NDJSON, one line per object of the reply, as the cluster gives them.
pub async fn export(client: &Client, screen: Screen, epic: &EpicId, output: Option<&Path>) -> Result<u8, Failure> {
    let mut body = json!({ "epic": epic, "after": null, "limit": LINES_PAGE });
    // The first page is asked for before the file is made: an unknown epic leaves no empty file behind.
    let mut reply = ask_epic(client, "epic.export", &body).await?;
    let mut target = match output {
        Some(path) => {
            let file = File::create(path).map_err(|error| Failure::file("create", path, &error))?;
            Target::File { path: path.to_owned(), file: BufWriter::new(file) }
        }
        None => Target::Screen(screen),
    };
    let mut count = 0usize;
    loop {
        let mut page = String::new();
        for line in items(&reply, "lines") {
            // A line that is text already is the line; an object is written as one.
            page.push_str(&line.as_str().map_or_else(|| line.to_string(), str::to_owned));
            page.push('\n');
            count += 1;
        }
        target.write(&page)?;
        let next = reply["next"].take();
        if next.is_null() || next == body["after"] {
            break;
        }
        body["after"] = next;
        reply = ask_epic(client, "epic.export", &body).await?;
    }
    if let Target::File { path, mut file } = target {
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(|error| Failure::file("write", &path, &error))?;
        if screen.json {
            screen.json(&json!({ "epic": epic, "file": path.display().to_string(), "lines": count }))?;
        } else {
            talk(&format!("{count} lines in {}", path.display()));
        }
    }
    Ok(exit::OK)
}

/// Judges an exported journal; `-` is standard input.
pub fn check(path: &Path, epic: Option<&EpicId>) -> Result<Value, Failure> {
    let mut checker = Checker::new(epic.cloned());
    lines::each(
        path,
        LINE_BYTES_MAX,
        |why| no_journal(path, why),
        |number, line| {
            let text = std::str::from_utf8(line).map_err(|_| no_journal(path, &format!("line {number} is not text")))?;
            checker.line(text.trim_end_matches(['\n', '\r'])).map_err(|error| no_journal(path, &chain(&error)))?;
            Ok(())
        },
    )?;
    let verdict = checker.finish().map_err(|error| no_journal(path, &chain(&error)))?;
    serde_json::to_value(&verdict).map_err(|error| Failure::new(ErrorCode::Internal, format!("the verdict cannot be shown: {error}")))
}

fn no_journal(path: &Path, why: &str) -> Failure {
    Failure::usage(format!("{} is no exported journal: {why}", path.display())).hint("amphi epic export EPIC -o FILE writes one")
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> Failure {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        check(file.path(), None).expect_err("no journal")
    }

    #[test]
    fn what_is_no_journal_is_an_error_and_not_a_verdict() {
        for bytes in [&b""[..], b"garbage\n", b"\xff\xfe\x00", b"{}\n", b"[1]\n"] {
            assert_eq!(refused(bytes).exit_code(), 2);
        }
    }
}
