//! Values that go into a job.

use std::collections::BTreeMap;

use amphi_protocol::document::{Reference, substitute, substitute_text};
use serde_json::Value;

/// Puts values in for references; an error names the first reference that has none, so that no `${{ … }}` ever reaches a task as text.
pub(crate) fn fill_text(text: &str, values: &BTreeMap<String, String>) -> Result<String, Reference> {
    check_text(text, values)?;
    Ok(substitute_text(text, values))
}

/// [`fill_text`] for every text inside a JSON value.
pub(crate) fn fill(value: &Value, values: &BTreeMap<String, String>) -> Result<Value, Reference> {
    check(value, values)?;
    Ok(substitute(value, values))
}

fn check(value: &Value, values: &BTreeMap<String, String>) -> Result<(), Reference> {
    match value {
        Value::String(text) => check_text(text, values),
        Value::Array(items) => items.iter().try_for_each(|item| check(item, values)),
        Value::Object(fields) => fields.values().try_for_each(|item| check(item, values)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn check_text(text: &str, values: &BTreeMap<String, String>) -> Result<(), Reference> {
    let mut rest = text;
    while let Some(start) = rest.find("${{") {
        let Some(length) = rest[start..].find("}}") else { break };
        match rest[start + 3..start + length].parse::<Reference>() {
            Ok(reference) if !values.contains_key(&reference.to_string()) => return Err(reference),
            Ok(_) | Err(_) => rest = &rest[start + length + 2..],
        }
    }
    Ok(())
}

/// What to tell people about a reference without a value.
pub(crate) fn no_value(reference: &Reference) -> String {
    match reference {
        Reference::Secret(name) => format!("the secret `{name}` is not configured on this node"),
        other => format!("`{other}` has no value"),
    }
}
