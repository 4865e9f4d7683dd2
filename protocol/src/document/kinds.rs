//! What a task runs: exactly one kind. Kinds of later releases are checked for their shape and then refused, never passed over.

use serde_json::{Map, Value};

use crate::api::ErrorCode;
use crate::document::check::{Check, References, Scope};
use crate::document::outputs::parse_output_type;
use crate::document::report::shown;
use crate::document::yaml::{Class, Entry, Kind, Node, Place};
use crate::document::{Script, Work, keys, matrix, read};

/// Longest run text; the operating system takes at most 128 KiB as one argument.
const RUN_BYTES_MAX: usize = 64 * 1024;
/// Most questions of one `ask`.
const QUESTIONS_MAX: usize = 5;

impl Check<'_> {
    /// The work of a task or of an `undo`. `fields` are all its keys.
    pub(super) fn work(&mut self, place: Place, what: &str, fields: &[&Entry], refs: &mut References<'_>) -> Work {
        let nothing = Work::Run(Script { text: String::new(), variables: std::collections::BTreeMap::new() });
        let kinds: Vec<&Entry> = fields.iter().copied().filter(|entry| keys::KINDS.contains(&entry.key.as_str())).collect();
        let [kind] = kinds.as_slice() else {
            let message = match kinds.as_slice() {
                [] => format!("{what} has no kind: nothing says what it runs"),
                _ => {
                    let names: Vec<&str> = kinds.iter().map(|entry| entry.key.as_str()).collect();
                    format!("{what} has more than one kind: {}", names.join(", "))
                }
            };
            let hint = format!("give it exactly one of {}", keys::KINDS.join(", "));
            self.report.error_hint(kinds.get(1).map_or(place, |entry| entry.place), ErrorCode::EpicType, message, hint);
            return nothing;
        };
        let with = fields.iter().copied().find(|entry| entry.key == "with");
        if let Some(with) = with
            && !matches!(kind.key.as_str(), "tool" | "epic")
        {
            self.report.wrong(with.place, format!("`with` belongs to `tool` and `epic`, and {what} is a `{}`", kind.key));
        }
        match kind.key.as_str() {
            "run" => self.run(kind, refs).map_or(nothing, Work::Run),
            "tool" => self.tool(kind, with, refs).unwrap_or(nothing),
            "wait" => self.wait(kind, refs).unwrap_or(nothing),
            "epic" => self.sub_epic(kind, fields, refs).unwrap_or(nothing),
            _ => {
                self.later_kind(kind, refs);
                let hint = "this release runs `run`, `tool`, `wait` and `epic`";
                self.unsupported(kind.place, &format!("tasks of kind `{}`", kind.key), hint);
                nothing
            }
        }
    }

    fn run(&mut self, entry: &Entry, refs: &mut References<'_>) -> Option<Script> {
        let text = match &entry.value.kind {
            // `run: true` is a command, whatever YAML makes of it.
            Kind::Scalar(scalar) if matches!(scalar.class, Class::Boolean(_)) => scalar.text.as_str(),
            _ => read::text(&mut self.report, &entry.value, "run")?,
        };
        if text.trim().is_empty() {
            self.report.wrong(entry.value.place, "`run` is empty");
            return None;
        }
        if text.len() > RUN_BYTES_MAX {
            let message = format!("the script is longer than {RUN_BYTES_MAX} bytes");
            self.report.error_hint(entry.value.place, ErrorCode::EpicLimit, message, "put it into a file of the workspace");
            return None;
        }
        self.references(&entry.value, text, Scope::Running, refs);
        let script = self.script(&entry.value, text)?;
        if script.text.len() > 2 * RUN_BYTES_MAX - 4096 {
            self.report.error(entry.value.place, ErrorCode::EpicLimit, "the script has too many references");
            return None;
        }
        Some(script)
    }

    fn tool(&mut self, entry: &Entry, with: Option<&Entry>, refs: &mut References<'_>) -> Option<Work> {
        let name = read::text(&mut self.report, &entry.value, "tool")?.to_owned();
        if name.is_empty() || name.len() > 128 || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            self.report.wrong(entry.value.place, format!("`{}` is no name of a tool", shown(&name)));
            return None;
        }
        if !self.options.catalog.tools.contains(&name) {
            let hint = self.report.suggest(&name, self.options.catalog.tools.iter().map(String::as_str));
            self.unknown_name(entry.value.place, ErrorCode::ToolUnknown, format!("there is no tool `{}`", shown(&name)), hint);
        }
        let with = match with {
            None => Value::Object(Map::new()),
            Some(with) => {
                read::mapping(&mut self.report, &with.value, "with")?;
                self.texts_below(&with.value, refs);
                match with.value.json() {
                    Ok(value) => value,
                    Err(place) => {
                        self.report.wrong(place, "`with` holds a number that is not finite or too large");
                        return None;
                    }
                }
            }
        };
        Some(Work::Tool { tool: name, with })
    }

    /// Checks every text inside a value. Depth is bounded by the parser.
    fn texts_below(&mut self, node: &Node, refs: &mut References<'_>) {
        match &node.kind {
            Kind::Scalar(scalar) => {
                if scalar.class == Class::Text {
                    self.references(node, &scalar.text, Scope::Running, refs);
                }
            }
            Kind::List(items) => items.iter().for_each(|item| self.texts_below(item, refs)),
            Kind::Map(entries) => entries.iter().for_each(|entry| self.texts_below(&entry.value, refs)),
        }
    }

    fn later_kind(&mut self, entry: &Entry, refs: &mut References<'_>) {
        let node = &entry.value;
        match entry.key.as_str() {
            "prompt" => {
                if let Some(text) = read::text(&mut self.report, node, "prompt") {
                    self.references(node, text, Scope::Running, refs);
                }
            }
            "approve" => self.approve(node, refs),
            _ => self.questions(node, refs),
        }
    }

    fn approve(&mut self, node: &Node, refs: &mut References<'_>) {
        for field in read::fields(&mut self.report, node, "approve", &[keys::APPROVE]).unwrap_or_default() {
            let value = &field.value;
            match field.key.as_str() {
                "by" => {
                    for (text, item) in read::texts(&mut self.report, value, "by").unwrap_or_default() {
                        if !text.starts_with("user:") && !text.starts_with("team:") {
                            self.report.wrong(item.place, format!("`{}` is nobody: expected user:x or team:y", shown(text)));
                        }
                    }
                }
                "count" => {
                    read::integer(&mut self.report, value, "count", 1..=100);
                }
                "timeout" => {
                    read::duration(&mut self.report, value, "timeout", 1);
                }
                "on_timeout" => self.word(value, "on_timeout", &["reject", "escalate"]),
                "raise" => {
                    for raise in read::fields(&mut self.report, value, "raise", &[keys::RAISE]).unwrap_or_default() {
                        if raise.key == "to" {
                            read::integer(&mut self.report, &raise.value, "to", 1..=100);
                        }
                    }
                }
                _ => {
                    if let Some(text) = read::text(&mut self.report, value, "ask") {
                        self.references(value, text, Scope::Running, refs);
                    }
                }
            }
        }
    }

    /// One of a few words.
    pub(super) fn word(&mut self, node: &Node, what: &str, words: &[&str]) {
        if let Some(text) = read::text(&mut self.report, node, what)
            && !words.contains(&text)
        {
            let hint = format!("expected {}", words.join(" or "));
            self.report.error_hint(node.place, ErrorCode::EpicType, format!("{what} cannot be `{}`", shown(text)), hint);
        }
    }

    fn questions(&mut self, node: &Node, refs: &mut References<'_>) {
        let items = read::list(&mut self.report, node, "ask").unwrap_or_default();
        if items.is_empty() || items.len() > QUESTIONS_MAX {
            self.report.wrong(node.place, format!("`ask` must hold 1 to {QUESTIONS_MAX} questions"));
        }
        for item in items.iter().take(QUESTIONS_MAX) {
            for field in read::fields(&mut self.report, item, "a question", &[keys::QUESTION]).unwrap_or_default() {
                let Some(text) = read::text(&mut self.report, &field.value, &field.key) else { continue };
                match field.key.as_str() {
                    "id" if !matrix::is_word(text) => self.report.wrong(field.value.place, "the id of a question must be a word"),
                    "type" if parse_output_type(text).is_none() => {
                        self.report.wrong(field.value.place, format!("`{}` is no type", shown(text)));
                    }
                    "text" => self.references(&field.value, text, Scope::Running, refs),
                    _ => {}
                }
            }
        }
    }
}
