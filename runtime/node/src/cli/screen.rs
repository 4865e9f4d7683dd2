//! Standard output and how it looks: colour, glyphs, tables, durations.
//!
//! Results go to standard output through [`Screen`], talk goes to standard error through [`talk`]. A reader that has gone away
//! (`| head`) ends the command quietly, never with a panic. Text that came from elsewhere is shown without control characters, so
//! that no task can speak to the user's terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::failure::Failure;

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a piece of text means; its colour follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// As it is.
    Plain,
    /// Success.
    Good,
    /// Failure.
    Bad,
    /// Attention.
    Warn,
    /// At work.
    Busy,
    /// A heading.
    Head,
    /// Of little interest now.
    Dim,
    /// Frame of an excerpt, labels.
    Mark,
}

/// Whether text is painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// No colour.
    #[cfg(test)]
    pub const PLAIN: Self = Self { colour: false };

    /// Decides by the user's choice, the usual variables and whether `terminal` is one.
    pub fn choose(choice: ColorChoice, terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let colour = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if set("NO_COLOR") => false,
            ColorChoice::Auto if std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            ColorChoice::Auto => terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
        };
        Self { colour }
    }

    /// `text` in the colour of its meaning.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Plain => "",
            Paint::Good => "32",
            Paint::Bad => "1;31",
            Paint::Warn => "33",
            Paint::Busy => "36",
            Paint::Head => "1",
            Paint::Dim => "2",
            Paint::Mark => "34",
        };
        if !self.colour || code.is_empty() || text.is_empty() { text.to_owned() } else { format!("\x1b[{code}m{text}\x1b[0m") }
    }
}

/// Standard output of a command.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Machine-readable output is wanted.
    pub json: bool,
    /// Somebody looks at it.
    pub terminal: bool,
    /// Its colours.
    pub style: Style,
    /// Colours of standard error.
    pub talk_style: Style,
}

impl Screen {
    /// The process's standard output.
    pub fn new(json: bool, choice: ColorChoice) -> Self {
        let terminal = io::stdout().is_terminal();
        let talk_style = Style::choose(choice, io::stderr().is_terminal());
        Self { json, terminal, style: Style::choose(choice, terminal), talk_style }
    }

    /// Writes text as it is and flushes it.
    pub fn write(&self, text: &str) -> Result<(), Failure> {
        self.write_bytes(text.as_bytes())
    }

    /// Writes bytes as they are and flushes them.
    pub fn write_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::PipeClosed),
            Err(error) => Err(Failure::new(amphi_protocol::api::ErrorCode::Internal, format!("cannot write to standard output: {error}"))),
        }
    }

    /// Writes one line.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.write(&format!("{text}\n"))
    }

    /// Writes one JSON value as one line.
    pub fn json(&self, value: &Value) -> Result<(), Failure> {
        self.line(&value.to_string())
    }

    /// Writes `value` with `--json`, else what `human` makes of it.
    pub fn show(&self, value: &Value, human: impl FnOnce(&Value, Style) -> String) -> Result<(), Failure> {
        if self.json { self.json(value) } else { self.write(&human(value, self.style)) }
    }
}

/// Talk: one line on standard error. That nobody reads it is no error.
pub fn talk(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// `text` without control characters, so that it stays on its line and cannot move the cursor.
pub fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\n' || c == '\t' { ' ' } else { c })
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

/// Glyph and meaning of a state word, for epics, tasks, agents, nodes and laws.
pub fn state_mark(state: &str) -> (&'static str, Paint) {
    match state {
        "succeeded" | "holds" | "ok" | "resolved" | "idle" | "alive" => ("✓", Paint::Good),
        "failed" | "violated" | "fail" | "lost" | "dead" | "quarantined" => ("✗", Paint::Bad),
        "cancelled" | "cancelling" => ("⊘", Paint::Warn),
        "running" | "busy" | "started" => ("▶", Paint::Busy),
        "assigned" | "starting" => ("▷", Paint::Busy),
        "retrying" | "restarting" | "suspect" => ("↻", Paint::Warn),
        "waiting" | "open" | "warn" | "paused" | "draining" | "drained" => ("◌", Paint::Warn),
        "skipped" => ("↷", Paint::Dim),
        "unknown" => ("?", Paint::Warn),
        "undone" => ("↶", Paint::Dim),
        "ready" => ("○", Paint::Plain),
        "blocked" | "not_exercised" | "not_checkable" => ("·", Paint::Dim),
        _ => ("•", Paint::Plain),
    }
}

/// A state as glyph, word and colour.
pub fn state_cell(state: &str) -> Cell {
    let (glyph, paint) = state_mark(state);
    Cell::painted(format!("{glyph} {state}"), paint)
}

/// One field of a table.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    /// Plain text.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self::painted(text, Paint::Plain)
    }

    /// Text with a meaning.
    pub fn painted(text: impl AsRef<str>, paint: Paint) -> Self {
        Self { text: visible(text.as_ref()), paint }
    }
}

/// Columns aligned to their widest field, two spaces apart, nothing cut.
pub fn table(heads: &[&str], rows: &[Vec<Cell>], style: Style) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    let mut out = String::new();
    let head: Vec<Cell> = heads.iter().map(|head| Cell::painted(head, Paint::Head)).collect();
    for row in std::iter::once(&head).chain(rows) {
        let last = row.len().saturating_sub(1);
        for (position, (cell, width)) in row.iter().zip(&widths).enumerate() {
            out.push_str(&style.paint(cell.paint, &cell.text));
            if position != last {
                out.push_str(&" ".repeat(width - cell.text.chars().count() + 2));
            }
        }
        while out.ends_with(' ') {
            out.pop();
        }
        out.push('\n');
    }
    out
}

/// A field of an object as text: strings as they are, null and absent as `-`.
pub fn text_of(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The objects of a list field, none if it is absent.
pub fn items<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// `1 task`, `2 tasks`.
pub fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// `4m12s`, `3.2s`, `0.04s`.
pub fn duration_text(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..10 => format!("{seconds}.{}s", ms % 1000 / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `k=v  k=v` lines for the head of a single thing; absent values are left out.
pub fn facts(pairs: &[(&str, String)], style: Style) -> String {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (key, value) in pairs.iter().filter(|(_, value)| value != "-" && !value.is_empty()) {
        let _ = writeln!(out, "{}  {}", style.paint(Paint::Dim, &format!("{key:width$}")), visible(value));
    }
    out
}
