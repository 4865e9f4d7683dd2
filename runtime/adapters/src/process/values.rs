//! Values that go into a job and outputs that come out of it.

use std::collections::BTreeMap;

use amphi_protocol::document::{OutputType, Reference};
use serde_json::Value;

/// Puts values in for references; an error names the first reference that has none, so that no `${{ … }}` ever reaches a task as text.
pub(crate) fn fill_text(text: &str, values: &BTreeMap<String, String>) -> Result<String, Reference> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${{") {
        let Some(length) = rest[start..].find("}}") else { break };
        out.push_str(&rest[..start]);
        match rest[start + 3..start + length].parse::<Reference>() {
            Ok(reference) => match values.get(&reference.to_string()) {
                Some(value) => out.push_str(value),
                None => return Err(reference),
            },
            Err(_) => out.push_str(&rest[start..start + length + 2]),
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

/// [`fill_text`] for every text inside a JSON value.
pub(crate) fn fill(value: &Value, values: &BTreeMap<String, String>) -> Result<Value, Reference> {
    Ok(match value {
        Value::String(text) => Value::String(fill_text(text, values)?),
        Value::Array(items) => Value::Array(items.iter().map(|item| fill(item, values)).collect::<Result<_, _>>()?),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, item)| Ok((name.clone(), fill(item, values)?))).collect::<Result<_, Reference>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

/// What to tell people about a reference without a value.
pub(crate) fn no_value(reference: &Reference) -> String {
    match reference {
        Reference::Secret(name) => format!("the secret `{name}` is not configured on this node"),
        other => format!("`{other}` has no value"),
    }
}

/// Outputs with the declared types; what is not declared is text. The error is for people.
pub(crate) fn settle_outputs(
    declared: &BTreeMap<String, OutputType>,
    raw: BTreeMap<String, String>,
) -> Result<BTreeMap<String, Value>, String> {
    if let Some(name) = declared.keys().find(|name| !raw.contains_key(*name)) {
        return Err(format!("the output `{name}` is missing"));
    }
    raw.into_iter()
        .map(|(name, text)| match declared.get(&name) {
            None => Ok((name, Value::String(text))),
            Some(kind) => match typed(kind, &text) {
                Some(value) => Ok((name, value)),
                None => Err(format!("the output `{name}` does not have its declared type")),
            },
        })
        .collect()
}

fn typed(kind: &OutputType, text: &str) -> Option<Value> {
    match kind {
        OutputType::String => Some(Value::String(text.to_owned())),
        OutputType::Enum(words) => words.iter().any(|word| word == text).then(|| Value::String(text.to_owned())),
        other => serde_json::from_str(text).ok().filter(|value| has_type(other, value)),
    }
}

fn has_type(kind: &OutputType, value: &Value) -> bool {
    match kind {
        OutputType::String => value.is_string(),
        OutputType::Number => value.is_number(),
        OutputType::Integer => value.is_i64() || value.is_u64(),
        OutputType::Boolean => value.is_boolean(),
        OutputType::Object => value.is_object(),
        OutputType::List(item) => value.as_array().is_some_and(|items| items.iter().all(|value| has_type(item, value))),
        OutputType::Enum(words) => value.as_str().is_some_and(|text| words.iter().any(|word| word == text)),
    }
}
