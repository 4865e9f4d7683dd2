//! Arguments of tools, checked against what a tool declares.

use std::collections::BTreeMap;

use amphi_protocol::document::parse_duration;
use serde_json::Value;

/// One argument that a tool takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub is_required: bool,
}

/// What an argument holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text; a number or a truth value is taken as it is written.
    Text,
    /// A whole number between these.
    Count { min: u64, max: u64 },
    /// `500ms`, `10s`, `5m`, `1h`, at most this many milliseconds.
    Duration { ms_max: u64 },
    /// `true` or `false`.
    Flag,
    /// Anything, as it is.
    Anything,
}

/// Checked arguments: texts as they are, counts, durations in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    texts: BTreeMap<&'static str, String>,
    numbers: BTreeMap<&'static str, u64>,
    values: BTreeMap<&'static str, Value>,
}

impl Arguments {
    /// Checks `with`. Where `is_open`, a text with a reference in it may still become anything.
    pub fn check(parameters: &'static [Parameter], with: &Value, is_open: bool) -> Result<Self, String> {
        let nothing = serde_json::Map::new();
        let given = match with {
            Value::Object(given) => given,
            Value::Null => &nothing,
            _ => return Err("`with` must be a map".to_owned()),
        };
        if let Some(unknown) = given.keys().find(|name| parameters.iter().all(|parameter| parameter.name != name.as_str())) {
            let known: Vec<&str> = parameters.iter().map(|parameter| parameter.name).collect();
            let hint = if known.is_empty() { "it takes none".to_owned() } else { format!("it takes {}", known.join(", ")) };
            return Err(format!("no argument `{}`: {hint}", unknown.chars().take(64).collect::<String>()));
        }
        let mut arguments = Self::default();
        for parameter in parameters {
            match given.get(parameter.name) {
                Some(value) if is_open && value.as_str().is_some_and(|text| text.contains("${{")) => {}
                Some(value) if !value.is_null() => arguments.take(parameter, value)?,
                _ if parameter.is_required => return Err(format!("the argument `{}` is missing", parameter.name)),
                _ => {}
            }
        }
        Ok(arguments)
    }

    fn take(&mut self, parameter: &Parameter, value: &Value) -> Result<(), String> {
        let name = parameter.name;
        if parameter.kind == Kind::Anything {
            self.values.insert(name, value.clone());
            return Ok(());
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return Err(format!("the argument `{name}` must be a plain value")),
        };
        match parameter.kind {
            Kind::Text | Kind::Anything => {
                self.texts.insert(name, text);
            }
            Kind::Count { min, max } => {
                let number = text.trim().parse::<u64>().ok().filter(|number| (min..=max).contains(number));
                self.numbers
                    .insert(name, number.ok_or_else(|| format!("the argument `{name}` must be a whole number from {min} to {max}"))?);
            }
            Kind::Flag => {
                let flag = text.trim().parse::<bool>().map_err(|_| format!("the argument `{name}` must be true or false"))?;
                self.numbers.insert(name, u64::from(flag));
            }
            Kind::Duration { ms_max } => {
                let ms = parse_duration(text.trim()).filter(|ms| (1..=ms_max).contains(ms));
                let expected = || format!("the argument `{name}` must be a duration such as 500ms, 10s or 1m, at most {}s", ms_max / 1000);
                self.numbers.insert(name, ms.ok_or_else(expected)?);
            }
        }
        Ok(())
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// A value of any shape.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// A count, or a duration in milliseconds.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.numbers.get(name).copied()
    }

    /// A truth value; false if it was not given.
    pub fn flag(&self, name: &str) -> bool {
        self.number(name) == Some(1)
    }
}
