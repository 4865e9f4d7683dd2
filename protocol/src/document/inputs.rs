//! `inputs`: what a document declares, what the caller gives, and the values that come of it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::ErrorCode;
use crate::document::options::CompileOptions;
use crate::document::read;
use crate::document::report::{Report, shown};
use crate::document::sub_epic::Within;
use crate::document::yaml::{Entry, Kind, Node, Place};
use crate::document::{keys, value_text};

/// Longest pattern of an input.
const PATTERN_BYTES_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InputType {
    String,
    Number,
    Integer,
    Boolean,
    Object,
}

impl InputType {
    const ALL: [(Self, &'static str); 5] = [
        (Self::String, "string"),
        (Self::Number, "number"),
        (Self::Integer, "integer"),
        (Self::Boolean, "boolean"),
        (Self::Object, "object"),
    ];

    fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(this, _)| *this == self).map_or("", |(_, text)| text)
    }

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(_) => Some(Self::String),
            Value::Bool(_) => Some(Self::Boolean),
            Value::Number(number) if number.is_f64() => Some(Self::Number),
            Value::Number(_) => Some(Self::Integer),
            Value::Object(_) => Some(Self::Object),
            Value::Null | Value::Array(_) => None,
        }
    }

    fn accepts(self, value: &Value) -> bool {
        match Self::of(value) {
            Some(Self::Integer) => matches!(self, Self::Integer | Self::Number),
            Some(found) => found == self,
            None => false,
        }
    }

    /// A given value, where a text may stand for another type (`-i n=3`).
    fn take(self, given: &Value) -> Option<Value> {
        let value = match given {
            Value::String(text) if self != Self::String => serde_json::from_str(text).ok()?,
            other => other.clone(),
        };
        self.accepts(&value).then_some(value)
    }
}

/// One declared input.
struct Declared {
    kind: InputType,
    default: Option<Value>,
    required: bool,
    pattern: Option<regex_lite::Regex>,
    place: Place,
}

/// The inputs of a document.
#[derive(Default)]
pub(super) struct Inputs {
    /// Every declared name; `None` if it has no value.
    pub values: BTreeMap<String, Option<Value>>,
}

impl Inputs {
    /// The values alone.
    pub(super) fn known(&self) -> BTreeMap<String, Value> {
        self.values.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect()
    }
}

/// Reads `inputs` and takes what the caller gave.
pub(super) fn read(report: &mut Report, entry: Option<&Entry>, options: &CompileOptions, within: Option<&Within>) -> Inputs {
    let mut declared = BTreeMap::new();
    let mut inputs = Inputs::default();
    if let Some(entry) = entry
        && !entry.value.is_null()
    {
        for input in read::mapping(report, &entry.value, "inputs").unwrap_or_default() {
            inputs.values.insert(input.key.clone(), None);
            if let Some(found) = declare(report, input, options) {
                declared.insert(input.key.as_str(), found);
            }
        }
    }
    let place = entry.map_or(Place::START, |entry| entry.place);
    for name in options.inputs.keys() {
        if !inputs.values.contains_key(name) {
            let hint = report.suggest(name, inputs.values.keys().map(String::as_str));
            let hint = hint.unwrap_or_else(|| "declare it under `inputs`".to_owned());
            report.error_hint(place, ErrorCode::EpicType, format!("the epic has no input `{}`", shown(name)), hint);
        }
    }
    for (name, input) in &declared {
        let value = resolve(report, name, input, options, within);
        inputs.values.insert((*name).to_owned(), value);
    }
    inputs
}

fn declare(report: &mut Report, entry: &Entry, options: &CompileOptions) -> Option<Declared> {
    let name_fits = !entry.key.is_empty() && entry.key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !name_fits {
        report.wrong(entry.place, format!("`{}` is no input name: expected A-Z a-z 0-9 - _", shown(&entry.key)));
        return None;
    }
    if entry.key.len() > crate::ids::ID_LENGTH_MAX {
        report.error(entry.place, ErrorCode::EpicLimit, "the input's name has more than 64 characters");
        return None;
    }
    let what = format!("input `{}`", entry.key);
    if !matches!(entry.value.kind, Kind::Map(_)) {
        return shorthand(report, entry, &what, options);
    }
    let before = report.count();
    let fields = read::fields(report, &entry.value, &what, &[keys::INPUT])?;
    let field = |key: &str| fields.iter().find(|field| field.key == key).map(|field| &field.value);
    let default = field("default").filter(|node| !node.is_null()).and_then(|node| json(report, node, &what));
    let kind = field("type").and_then(|node| kind(report, node, &what));
    let kind = kind.or_else(|| default.as_ref().and_then(InputType::of)).unwrap_or(InputType::String);
    let required = field("required").and_then(|node| read::boolean(report, node, "required"));
    let pattern = field("pattern").and_then(|node| pattern(report, node, kind));
    if let Some(node) = field("description") {
        read::text(report, node, "description");
    }
    if report.count() != before {
        return None;
    }
    let declared = Declared { kind, required: required.unwrap_or(true), default: None, pattern, place: entry.place };
    match default {
        Some(value) => {
            let place = field("default").map_or(entry.place, |node| node.place);
            let value = checked(report, &entry.key, &declared, value, place, options, "default")?;
            Some(Declared { default: Some(value), ..declared })
        }
        None => Some(declared),
    }
}

/// `tag: v1` declares a text with a default; `tag:` one without.
fn shorthand(report: &mut Report, entry: &Entry, what: &str, options: &CompileOptions) -> Option<Declared> {
    let place = entry.place;
    if entry.value.is_null() {
        return Some(Declared { kind: InputType::String, default: None, required: true, pattern: None, place });
    }
    let value = json(report, &entry.value, what)?;
    let Some(kind) = InputType::of(&value) else {
        report.wrong(entry.value.place, format!("{what} cannot be {}", entry.value.class()));
        return None;
    };
    let declared = Declared { kind, default: None, required: true, pattern: None, place };
    let value = checked(report, &entry.key, &declared, value, entry.value.place, options, "default")?;
    Some(Declared { default: Some(value), ..declared })
}

fn json(report: &mut Report, node: &Node, what: &str) -> Option<Value> {
    match node.json() {
        Ok(value) => Some(value),
        Err(place) => {
            report.wrong(place, format!("{what} holds a number that is not finite or too large"));
            None
        }
    }
}

fn kind(report: &mut Report, node: &Node, what: &str) -> Option<InputType> {
    let text = read::text(report, node, &format!("the type of {what}"))?;
    let kind = InputType::ALL.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind);
    if kind.is_none() {
        let hint = "known types: string, number, integer, boolean, object";
        report.error_hint(node.place, ErrorCode::EpicType, format!("`{}` is no input type", shown(text)), hint);
    }
    kind
}

fn pattern(report: &mut Report, node: &Node, kind: InputType) -> Option<regex_lite::Regex> {
    let text = read::text(report, node, "pattern")?;
    if kind != InputType::String {
        report.wrong(node.place, "`pattern` is for inputs of type string");
        return None;
    }
    if text.len() > PATTERN_BYTES_MAX {
        report.error(node.place, ErrorCode::EpicLimit, format!("the pattern is longer than {PATTERN_BYTES_MAX} bytes"));
        return None;
    }
    match regex_lite::RegexBuilder::new(text).size_limit(1 << 20).build() {
        Ok(regex) => Some(regex),
        Err(error) => {
            report.wrong(node.place, format!("the pattern is no regular expression: {}", shown(&error.to_string())));
            None
        }
    }
}

fn resolve(report: &mut Report, name: &str, input: &Declared, options: &CompileOptions, within: Option<&Within>) -> Option<Value> {
    if let Some(given) = options.inputs.get(name) {
        let Some(value) = input.kind.take(given) else {
            let message = format!("input `{name}` must be of type {}", input.kind.as_str());
            match within {
                Some(within) => {
                    report.error_hint(input.place, ErrorCode::EpicType, message, format!("task `{}` gives it under `with`", within.task))
                }
                None => report.wrong(input.place, message),
            }
            return None;
        };
        return checked(report, name, input, value, input.place, options, "value");
    }
    match &input.default {
        // What it is given has no value yet.
        _ if within.is_some_and(|within| within.open.contains(name)) => None,
        Some(value) => Some(value.clone()),
        None if !input.required => match input.kind {
            InputType::String => Some(Value::String(String::new())),
            InputType::Number | InputType::Integer => Some(Value::from(0)),
            InputType::Boolean => Some(Value::Bool(false)),
            InputType::Object => Some(Value::Object(serde_json::Map::new())),
        },
        None => {
            let message = format!("input `{name}` has no value");
            let hint = match within {
                Some(within) => format!("give it at task `{}` (`with: {{{name}: …}}`), or declare a default", within.task),
                None => format!("give it (`-i {name}=…`), or declare a default"),
            };
            if options.unknown_names_are_errors || within.is_some() {
                report.error_hint(input.place, ErrorCode::EpicType, message, hint);
            } else {
                report.warn(input.place, ErrorCode::EpicType, message, Some(hint));
            }
            None
        }
    }
}

fn checked(
    report: &mut Report,
    name: &str,
    input: &Declared,
    value: Value,
    place: Place,
    options: &CompileOptions,
    what: &str,
) -> Option<Value> {
    if !input.kind.accepts(&value) {
        report.wrong(place, format!("the {what} of input `{name}` must be of type {}", input.kind.as_str()));
        return None;
    }
    let text = value_text(&value);
    if text.len() > options.limits.value_bytes {
        let message = format!("the {what} of input `{name}` is longer than {} bytes", options.limits.value_bytes);
        report.error(place, ErrorCode::EpicLimit, message);
        return None;
    }
    if text.contains('\0') {
        report.wrong(place, format!("the {what} of input `{name}` holds a NUL character"));
        return None;
    }
    if let Some(pattern) = &input.pattern
        && !pattern.is_match(&text)
    {
        let message = format!("the {what} of input `{name}` does not match its pattern: `{}`", shown(&text));
        report.error_hint(place, ErrorCode::EpicType, message, format!("the pattern is {}", shown(pattern.as_str())));
        return None;
    }
    Some(value)
}
