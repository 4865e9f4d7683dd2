//! The lines of an exported journal, one JSON object each.
//!
//! Order: one header, then records by index, each specification that a record refers to without holding it before that record, and
//! (since a chain of hashes cannot tell where it should end) one closing line. Records are carried as the bytes that were stored, as a
//! JSON string, because the chain is over exactly these bytes.

use amphi_protocol::ids::{CommitIndex, EpicId, ShardId};
use serde_json::{Map, Value, json};

/// The number of the format that this build writes; a newer one is refused.
pub const EXPORT_VERSION: u64 = 1;

/// One line of an exported journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportLine {
    /// `{"amphi_export":1,"shard":0,"epic":"…","state_hash":"…"}`, the first line.
    Header(ExportHeader),
    /// `{"document":"<sha256>","json":"…"}`: a specification that is too large for a record.
    Document {
        /// SHA-256 of `json`, in hex: the hash in the record.
        hash: String,
        /// The specification as JSON.
        json: String,
    },
    /// `{"index":n,"record":"…"}`.
    Record {
        /// The record's own index.
        index: CommitIndex,
        /// The stored bytes.
        record: String,
    },
    /// `{"end":n,"hash":"<sha256>"}`, the last line, optional: the last record that there was when the export began.
    End {
        /// Index of the last record.
        index: CommitIndex,
        /// SHA-256 of the last record's bytes, in hex.
        hash: String,
    },
}

/// What an export says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportHeader {
    /// The shard.
    pub shard: ShardId,
    /// The epic for which the export was made; all records of the shard are in it nevertheless.
    pub epic: Option<EpicId>,
    /// Hash of the live state at the time, for comparison by the core; this checker cannot compute it.
    pub state_hash: Option<String>,
    /// The first record, where history before it is over: only the chain can be judged then.
    pub from: Option<CommitIndex>,
}

/// Why a line is no export line.
#[derive(Debug, thiserror::Error)]
pub enum LineFault {
    /// No JSON object.
    #[error("not a JSON object")]
    Json(#[source] serde_json::Error),
    /// None of the known lines.
    #[error("neither header, document, record nor end")]
    Unknown,
    /// A part is missing or has another type.
    #[error("`{field}` is missing or has another type")]
    Field {
        /// The part.
        field: &'static str,
    },
    /// Written by a newer build.
    #[error("export format {found}, this build reads up to {EXPORT_VERSION}")]
    Newer {
        /// The format found.
        found: u64,
    },
}

impl ExportLine {
    /// The line as text, without a line break.
    pub fn encode(&self) -> String {
        let value = match self {
            Self::Header(header) => {
                let mut object = Map::new();
                object.insert("amphi_export".into(), json!(EXPORT_VERSION));
                object.insert("shard".into(), json!(header.shard.0));
                if let Some(epic) = &header.epic {
                    object.insert("epic".into(), json!(epic.as_str()));
                }
                if let Some(from) = header.from {
                    object.insert("from".into(), json!(from.0));
                }
                if let Some(hash) = &header.state_hash {
                    object.insert("state_hash".into(), json!(hash));
                }
                Value::Object(object)
            }
            Self::Document { hash, json } => json!({"document": hash, "json": json}),
            Self::Record { index, record } => json!({"index": index.0, "record": record}),
            Self::End { index, hash } => json!({"end": index.0, "hash": hash}),
        };
        value.to_string()
    }

    /// Reads a line; fields that it does not know are ignored.
    pub fn decode(line: &str) -> Result<Self, LineFault> {
        let mut object: Map<String, Value> = serde_json::from_str(line).map_err(LineFault::Json)?;
        if object.contains_key("amphi_export") {
            return header(&object).map(Self::Header);
        }
        if object.contains_key("record") {
            let index = CommitIndex(number(&object, "index")?);
            return Ok(Self::Record { index, record: text(&mut object, "record")? });
        }
        if object.contains_key("document") {
            return Ok(Self::Document { hash: text(&mut object, "document")?, json: text(&mut object, "json")? });
        }
        if object.contains_key("end") {
            return Ok(Self::End { index: CommitIndex(number(&object, "end")?), hash: text(&mut object, "hash")? });
        }
        Err(LineFault::Unknown)
    }
}

fn header(object: &Map<String, Value>) -> Result<ExportHeader, LineFault> {
    let found = number(object, "amphi_export")?;
    if found > EXPORT_VERSION {
        return Err(LineFault::Newer { found });
    }
    let shard = u32::try_from(number(object, "shard")?).map_err(|_| LineFault::Field { field: "shard" })?;
    let epic = match object.get("epic") {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_str().and_then(|id| EpicId::parse(id).ok()).ok_or(LineFault::Field { field: "epic" })?),
    };
    let state_hash = match object.get("state_hash") {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_str().ok_or(LineFault::Field { field: "state_hash" })?.to_owned()),
    };
    let from = match object.get("from") {
        None | Some(Value::Null) => None,
        Some(_) => Some(CommitIndex(number(object, "from")?)),
    };
    Ok(ExportHeader { shard: ShardId(shard), epic, state_hash, from })
}

fn number(object: &Map<String, Value>, field: &'static str) -> Result<u64, LineFault> {
    object.get(field).and_then(Value::as_u64).ok_or(LineFault::Field { field })
}

fn text(object: &mut Map<String, Value>, field: &'static str) -> Result<String, LineFault> {
    match object.remove(field) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(LineFault::Field { field }),
    }
}
