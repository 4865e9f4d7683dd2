//! YAML as a tree in which every value knows where it came from.
//!
//! serde-saphyr reads it, within its budget against alias bombs and deep nesting; nothing is interpreted here.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use amphi_protocol::api::{ErrorCode, Problem};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::layers::Origin;

/// Largest file, in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A value with its origin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub origin: Origin,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Null,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub key: String,
    /// Of the key.
    pub origin: Origin,
    pub value: Node,
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    pub fn json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Boolean(value) => Value::Bool(*value),
            Kind::Integer(value) => Value::from(*value),
            Kind::Number(value) => Value::from(*value),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Self::json).collect()),
            Kind::Map(entries) => Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.json())).collect()),
        }
    }

    /// The word for what this is, for messages.
    pub fn class(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Boolean(_) => "a boolean",
            Kind::Integer(_) | Kind::Number(_) => "a number",
            Kind::Text(_) => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

/// Reads a file's text; an empty one is an empty mapping. `file` is `None` for what is built in.
pub(crate) fn parse(text: &str, file: Option<&Path>) -> Result<Node, Problem> {
    let shown = file.map(|file| file.display().to_string());
    let problem = |line: u64, column: u64, message: String| Problem {
        file: shown.clone(),
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX),
        code: ErrorCode::ConfigInvalid,
        message,
        hint: None,
    };
    if text.len() > FILE_BYTES_MAX {
        return Err(problem(0, 0, format!("the file is larger than {FILE_BYTES_MAX} bytes")));
    }
    let place = Placing { file: file.map(Arc::from) };
    let root: Option<Spanned<Raw>> = serde_saphyr::from_str(text).map_err(|error| {
        let location = error.location();
        let message = error.without_snippet().to_string();
        problem(location.map_or(0, |at| at.line()), location.map_or(0, |at| at.column()), message)
    })?;
    Ok(match root {
        Some(root) => place.node(root),
        None => Node { origin: place.origin(1, 1), kind: Kind::Map(Vec::new()) },
    })
}

struct Placing {
    file: Option<Arc<Path>>,
}

impl Placing {
    fn origin(&self, line: u64, column: u64) -> Origin {
        match &self.file {
            None => Origin::Default,
            Some(path) => Origin::File {
                path: path.clone(),
                line: u32::try_from(line).unwrap_or(u32::MAX),
                column: u32::try_from(column).unwrap_or(u32::MAX),
            },
        }
    }

    fn of<T>(&self, spanned: &Spanned<T>) -> Origin {
        self.origin(spanned.referenced.line(), spanned.referenced.column())
    }

    fn node(&self, raw: Spanned<Raw>) -> Node {
        let origin = self.of(&raw);
        let kind = match raw.value {
            Raw::Null => Kind::Null,
            Raw::Boolean(value) => Kind::Boolean(value),
            Raw::Integer(value) => Kind::Integer(value),
            Raw::Number(value) => Kind::Number(value),
            Raw::Text(text) => Kind::Text(text),
            Raw::List(items) => Kind::List(items.into_iter().map(|item| self.node(item)).collect()),
            Raw::Map(entries) => Kind::Map(
                entries.into_iter().map(|(key, value)| Entry { origin: self.of(&key), key: key.value, value: self.node(value) }).collect(),
            ),
        };
        Node { origin, kind }
    }
}

enum Raw {
    Null,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Boolean(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        i64::try_from(value).map(Raw::Integer).map_err(|_| E::custom("the number is too large"))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map: Vec<(Spanned<String>, Spanned<Raw>)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((key, value)) = entries.next_entry::<Spanned<String>, Spanned<Raw>>()? {
            if !seen.insert(key.value.clone()) {
                return Err(de::Error::custom(format!("the key `{}` stands here for the second time", key.value)));
            }
            map.push((key, value));
        }
        Ok(Raw::Map(map))
    }
}
