//! `amphi progress`: a task says how far it is. Works inside a task only, and without the cluster.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use clap::Args;
use serde_json::json;

use super::failure::{Failure, exit};
use super::screen::Screen;

/// The file that the guard of a task reads, named by this variable.
pub const PROGRESS_VARIABLE: &str = "AMPHI_PROGRESS";
/// Longest message, in characters; a longer one is refused.
const MESSAGE_CHARS_MAX: usize = 1024;

/// `amphi progress`.
#[derive(Debug, Args)]
pub struct ProgressArgs {
    /// How much is done, 0 to 100
    #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    percent: Option<u8>,
    /// A line for people
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
}

/// Appends one line to the progress file of the task.
pub fn progress(screen: Screen, args: ProgressArgs) -> Result<u8, Failure> {
    let path = std::env::var_os(PROGRESS_VARIABLE).filter(|path| !path.is_empty()).ok_or_else(|| {
        Failure::usage("this is not a task of an epic: AMPHI_PROGRESS is not set").hint("call `amphi progress` in the `run` of a task")
    })?;
    let line = progress_line(&args)?;
    append(Path::new(&path), &line)?;
    if screen.json {
        screen.line(&line)?;
    }
    Ok(exit::OK)
}

fn progress_line(args: &ProgressArgs) -> Result<String, Failure> {
    if args.message.as_ref().is_some_and(|message| message.chars().count() > MESSAGE_CHARS_MAX) {
        return Err(Failure::usage(format!("the message is longer than {MESSAGE_CHARS_MAX} characters")));
    }
    Ok(json!({ "percent": args.percent, "message": args.message }).to_string())
}

/// One write, so that lines of parallel callers do not mix.
fn append(path: &Path, line: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).map_err(|error| Failure::file("append to", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_one_json_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("progress");
        let first = ProgressArgs { percent: Some(40), message: Some("two\nlines".into()) };
        let second = ProgressArgs { percent: None, message: None };
        for args in [first, second] {
            append(&path, &progress_line(&args).expect("a line")).expect("written");
        }
        let text = std::fs::read_to_string(&path).expect("there");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines, [json!({"percent": 40, "message": "two\nlines"}), json!({"percent": null, "message": null})]);
    }

    #[test]
    fn an_endless_message_is_refused() {
        let args = ProgressArgs { percent: None, message: Some("x".repeat(MESSAGE_CHARS_MAX + 1)) };
        assert_eq!(progress_line(&args).expect_err("refused").exit_code(), 2);
    }
}
