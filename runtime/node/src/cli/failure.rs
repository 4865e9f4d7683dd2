//! How a command ends badly: the error that users see, with its exit code.
//!
//! Everything that can go wrong in the command line becomes a [`Failure`]; nothing here prints.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use amphi_protocol::api::{ApiError, ErrorCode, Problem};
use serde_json::json;

use super::screen::{Paint, Style, visible};

/// Exit codes that no error code stands for.
pub mod exit {
    /// It worked.
    pub const OK: u8 = 0;
    /// The work failed or was cancelled, or a law is violated.
    pub const FAILED: u8 = 1;
    /// `--timeout` is over; the epic runs on.
    pub const TIMED_OUT: u8 = 7;
    /// Nothing runs and a person is needed.
    pub const PERSON_NEEDED: u8 = 8;
    /// Interrupted; the epic runs on.
    pub const INTERRUPTED: u8 = 130;
}

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// An error for the user.
    Error {
        /// What, why, what to try.
        error: Box<ApiError>,
        /// Texts of the local files that the problems are about, for excerpts.
        sources: BTreeMap<String, String>,
    },
    /// Nobody reads standard output any more; there is nobody to tell.
    PipeClosed,
}

impl Failure {
    /// An error with code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        ApiError::new(code, message).into()
    }

    /// Wrong use of the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::RequestInvalid, message)
    }

    /// A local file could not be read or written.
    pub fn file(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::usage(format!("cannot {what} {}: {error}", path.display()))
    }

    /// Adds what to try.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Error { mut error, sources } => {
                error.hint = Some(hint.into());
                Self::Error { error, sources }
            }
            Self::PipeClosed => self,
        }
    }

    /// Adds the texts that the problems point into, by file.
    #[must_use]
    pub fn with_sources(self, sources: BTreeMap<String, String>) -> Self {
        match self {
            Self::Error { error, .. } => Self::Error { error, sources },
            Self::PipeClosed => self,
        }
    }

    /// The error's code, if there is an error.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Error { error, .. } => Some(error.code),
            Self::PipeClosed => None,
        }
    }

    /// Message and hint.
    pub fn into_parts(self) -> (String, Option<String>) {
        match self {
            Self::Error { error, .. } => (error.message, error.hint),
            Self::PipeClosed => ("nobody reads".to_owned(), None),
        }
    }

    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Error { error, .. } => error.code.exit_code(),
            Self::PipeClosed => exit::OK,
        }
    }

    /// `{"error": …}` on one line; `None` if there is nobody to tell.
    pub fn as_json(&self) -> Option<String> {
        match self {
            Self::Error { error, .. } => Some(json!({ "error": error }).to_string()),
            Self::PipeClosed => None,
        }
    }

    /// The same for people, several lines, with excerpts of the local file.
    pub fn as_text(&self, style: Style) -> Option<String> {
        let Self::Error { error, sources } = self else { return None };
        let mut out = format!("{}: {}\n", style.paint(Paint::Bad, &format!("error[{}]", error.code.as_str())), visible(&error.message));
        for problem in &error.problems {
            out.push_str(&problem_text(problem, source_of(sources, problem), style));
        }
        if let Some(hint) = &error.hint {
            let _ = writeln!(out, "  {} {}", style.paint(Paint::Mark, "help:"), visible(hint));
        }
        Some(out)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Error { error: Box::new(error), sources: BTreeMap::new() }
    }
}

/// The text that a problem is about.
pub fn source_of<'s>(sources: &'s BTreeMap<String, String>, problem: &Problem) -> Option<&'s str> {
    sources.get(problem.file.as_deref()?).map(String::as_str)
}

/// One problem with its place and, where the file is at hand, the line it is about.
pub fn problem_text(problem: &Problem, source: Option<&str>, style: Style) -> String {
    let file = problem.file.as_deref().unwrap_or("(document)");
    let place = if problem.line == 0 { file.to_owned() } else { format!("{file}:{}:{}", problem.line, problem.column) };
    let mut out = format!("{}\n", style.paint(Paint::Bad, problem.code.as_str()));
    let _ = writeln!(out, "  {} {}", style.paint(Paint::Mark, "-->"), visible(&place));
    let line = source.filter(|_| problem.line > 0).and_then(|text| text.lines().nth(problem.line as usize - 1));
    if let Some(line) = line {
        out.push_str(&excerpt(line, problem, style));
    } else {
        let _ = writeln!(out, "   {} {}", style.paint(Paint::Mark, "="), visible(&problem.message));
    }
    if let Some(hint) = &problem.hint {
        let _ = writeln!(out, "   {} {}", style.paint(Paint::Mark, "= help:"), visible(hint));
    }
    out
}

/// Longest part of a source line that is shown, in characters.
const EXCERPT_CHARS_MAX: usize = 120;

fn excerpt(line: &str, problem: &Problem, style: Style) -> String {
    let column = (problem.column.max(1) as usize) - 1;
    // A very long line is shown from shortly before the place.
    let skipped = if column > EXCERPT_CHARS_MAX - 20 { column - 20 } else { 0 };
    let shown: String = line.chars().skip(skipped).take(EXCERPT_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let number = problem.line.to_string();
    let gutter = " ".repeat(number.len());
    let bar = style.paint(Paint::Mark, "|");
    let caret = style.paint(Paint::Bad, "^");
    format!(
        " {gutter} {bar}\n {} {bar} {shown}\n {gutter} {bar} {}{caret} {}\n",
        style.paint(Paint::Mark, &number),
        " ".repeat(column - skipped),
        visible(&problem.message),
    )
}
