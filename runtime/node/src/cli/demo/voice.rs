//! What the demo tells: titles, lines and checks for people as it goes on; with `--json` nothing before the one object at the end.

use std::io::{self, Write as _};

use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::cli::screen::{Paint, Screen, Style, visible};

/// The voice of one demo, and the checks that it made.
#[derive(Debug)]
pub(super) struct Voice {
    screen: Screen,
    checks: Vec<Check>,
    /// The line at the bottom of a terminal, if one is shown.
    has_status: bool,
}

#[derive(Debug)]
struct Check {
    what: String,
    holds: bool,
    found: String,
}

impl Voice {
    pub(super) fn new(screen: Screen) -> Self {
        Self { screen, checks: Vec::new(), has_status: false }
    }

    pub(super) fn style(&self) -> Style {
        self.screen.style
    }

    pub(super) fn title(&mut self, text: &str) -> Result<(), Failure> {
        let text = self.style().paint(Paint::Head, &format!("== {text}"));
        self.text(&format!("\n{text}\n"))
    }

    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.text(&format!("   {}\n", visible(text)))
    }

    /// A line that is painted already.
    pub(super) fn painted(&mut self, text: &str) -> Result<(), Failure> {
        self.text(&format!("   {text}\n"))
    }

    /// What another command would have shown.
    pub(super) fn show(&mut self, command: &str, text: &str) -> Result<(), Failure> {
        let shown: String = text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("     {line}\n") }).collect();
        self.text(&format!("\n   $ amphi {command}\n{shown}"))
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        if self.screen.json {
            return Ok(());
        }
        let clear = if std::mem::take(&mut self.has_status) { "\r\x1b[K" } else { "" };
        self.screen.write(&format!("{clear}{text}"))
    }

    /// Shows how far it is, on a terminal: a bar and what runs.
    pub(super) fn status(&mut self, done: usize, all: usize, text: &str) -> Result<(), Failure> {
        if self.screen.json || !self.screen.terminal {
            return Ok(());
        }
        const WIDTH: usize = 24;
        let full = (done * WIDTH).checked_div(all).unwrap_or(0).min(WIDTH);
        let bar = format!("{}{}", "█".repeat(full), "░".repeat(WIDTH - full));
        let text: String = visible(text).chars().take(38).collect();
        self.has_status = true;
        self.screen.write(&format!("\r\x1b[K   {} {done}/{all}  {text}", self.style().paint(Paint::Busy, &bar)))
    }

    /// Notes whether something holds.
    pub(super) fn check(&mut self, what: &str, holds: bool, found: &str) -> Result<(), Failure> {
        let mark = if holds { self.style().paint(Paint::Good, "ok  ") } else { self.style().paint(Paint::Bad, "FAIL") };
        let found_text = if found.is_empty() { String::new() } else { format!(": {}", visible(found)) };
        self.checks.push(Check { what: what.to_owned(), holds, found: found.to_owned() });
        self.painted(&format!("{mark} {what}{found_text}"))
    }

    /// `(those that hold, all)`.
    pub(super) fn score(&self) -> (usize, usize) {
        (self.checks.iter().filter(|check| check.holds).count(), self.checks.len())
    }

    pub(super) fn checks(&self) -> Value {
        self.checks.iter().map(|check| json!({ "check": check.what, "ok": check.holds, "found": check.found })).collect()
    }

    /// The one object of `--json`.
    pub(super) fn result(&self, value: &Value) -> Result<(), Failure> {
        if self.screen.json { self.screen.json(value) } else { Ok(()) }
    }

    /// Ends a line that stands open.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.has_status) {
            // Nobody reading is no reason to fail at the very end.
            writeln!(io::stdout().lock()).ok();
        }
    }
}
