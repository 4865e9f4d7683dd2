//! Texts with references in them: found, and replaced by values.
//!
//! Values are never read again after they were put in, so a value that looks like a reference stays what it is.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::document::Reference;

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part<'t> {
    /// As it is.
    Text(&'t str),
    /// `${{ … }}`: what it names, or what stands there instead.
    Reference(Result<Reference, String>),
    /// `${{` without an end.
    Open,
}

impl Part<'_> {
    /// True if it is this reference.
    pub(super) fn names(&self, reference: &Reference) -> bool {
        matches!(self, Self::Reference(Ok(named)) if named == reference)
    }
}

/// The parts of `text`, each with the byte where it begins.
pub(super) fn parts(text: &str) -> Vec<(usize, Part<'_>)> {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find("${{").map(|start| at + start) {
        if start > at {
            parts.push((at, Part::Text(&text[at..start])));
        }
        let Some(end) = text[start..].find("}}").map(|length| start + length) else {
            parts.push((start, Part::Open));
            return parts;
        };
        let reference = text[start + 3..end].parse::<Reference>().map_err(|error| error.0);
        parts.push((start, Part::Reference(reference)));
        at = end + 2;
    }
    if at < text.len() {
        parts.push((at, Part::Text(&text[at..])));
    }
    parts
}

/// Puts `values` in for the references of `text`; `value_of` may leave one as it is.
pub(super) fn replace(text: &str, mut value_of: impl FnMut(&Reference) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let parts = parts(text);
    for (index, (start, part)) in parts.iter().enumerate() {
        let end = parts.get(index + 1).map_or(text.len(), |(next, _)| *next);
        match part {
            Part::Reference(Ok(reference)) => match value_of(reference) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&text[*start..end]),
            },
            Part::Text(_) | Part::Reference(Err(_)) | Part::Open => out.push_str(&text[*start..end]),
        }
    }
    out
}

/// Puts values in for the references of a text. `values` is keyed by the text of a reference, for instance `inputs.x`; a reference
/// without a value stays as it is.
pub fn substitute_text(text: &str, values: &BTreeMap<String, String>) -> String {
    replace(text, |reference| values.get(&reference.to_string()).cloned())
}

/// [`substitute_text`] for every text in a JSON value; keys and everything else stay, and a text stays a text.
pub fn substitute(value: &Value, values: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => Value::String(substitute_text(text, values)),
        Value::Array(items) => Value::Array(items.iter().map(|item| substitute(item, values)).collect()),
        Value::Object(map) => Value::Object(map.iter().map(|(key, item)| (key.clone(), substitute(item, values))).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// The value behind an input reference: the input, or a field inside it.
pub fn input_value<'v>(inputs: &'v BTreeMap<String, Value>, path: &[String]) -> Option<&'v Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(inputs.get(first)?, |value, key| value.get(key))
}
