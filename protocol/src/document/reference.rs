//! References as text: what stands between `${{` and `}}`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::document::Reference;
use crate::ids::TaskName;

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(path) => write!(f, "inputs.{}", path.join(".")),
            Self::Output { task, output } => write!(f, "tasks.{task}.outputs.{output}"),
            Self::Matrix(axis) => write!(f, "matrix.{axis}"),
            Self::Secret(name) => write!(f, "secrets.{name}"),
        }
    }
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no reference: expected inputs.x, tasks.t.outputs.y, matrix.i or secrets.X")]
pub struct InvalidReference(pub String);

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let refused = || InvalidReference(text.chars().take(80).collect());
        let parts: Vec<&str> = text.trim().split('.').collect();
        let word = |w: &&str| !w.is_empty() && w.len() <= 64 && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !parts.iter().all(word) {
            return Err(refused());
        }
        match parts.as_slice() {
            ["inputs", path @ ..] if !path.is_empty() => Ok(Self::Input(path.iter().map(|s| (*s).to_owned()).collect())),
            ["tasks", task, "outputs", output] => {
                let task = TaskName::parse(task).map_err(|_| refused())?;
                Ok(Self::Output { task, output: (*output).to_owned() })
            }
            ["matrix", axis] => Ok(Self::Matrix((*axis).to_owned())),
            ["secrets", name] => Ok(Self::Secret((*name).to_owned())),
            _ => Err(refused()),
        }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
