//! Declared outputs: their types as users write them, and the check of what a task really gave.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::document::OutputType;
use crate::document::report::shown;

/// Longest value of an output, unless `limits.output_value` says otherwise.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Most that the outputs of one run may have together, as JSON. A record of the journal holds them twice (what was reported and what
/// follows from it) and has at most 768 KiB.
const OUTPUTS_BYTES_MAX: usize = 256 * 1024;
/// Deepest list of lists.
const LIST_DEPTH_MAX: usize = 4;
/// Most words of an enum.
const WORDS_MAX: usize = 256;

/// `string`, `number`, `integer`, `boolean`, `object`, `T[]` or `enum(a, b)`.
pub fn parse_output_type(text: &str) -> Option<OutputType> {
    let text = text.trim();
    let mut base = text;
    let mut lists = 0;
    while let Some(inner) = base.strip_suffix("[]") {
        base = inner.trim_end();
        lists += 1;
    }
    if lists > LIST_DEPTH_MAX {
        return None;
    }
    let mut kind = match base {
        "string" => OutputType::String,
        "number" => OutputType::Number,
        "integer" => OutputType::Integer,
        "boolean" => OutputType::Boolean,
        "object" => OutputType::Object,
        _ => enumeration(base)?,
    };
    for _ in 0..lists {
        kind = OutputType::List(Box::new(kind));
    }
    Some(kind)
}

fn enumeration(text: &str) -> Option<OutputType> {
    let inner = text.strip_prefix("enum")?.trim_start().strip_prefix('(')?.strip_suffix(')')?;
    let words: Vec<String> = inner.split(',').map(|word| word.trim().to_owned()).collect();
    let each_once = words.iter().collect::<std::collections::BTreeSet<_>>().len() == words.len();
    let fits = words.len() <= WORDS_MAX && each_once && words.iter().all(|word| !word.is_empty() && !word.contains(['(', ')']));
    fits.then_some(OutputType::Enum(words))
}

/// Reads what a task wrote as `key=value` by its declaration. Names that are not declared stay texts; a declared one that is missing
/// is an error, as is a value longer than `longest` bytes,
/// and more than 256 KiB of them together. The error is a line for people that names the output.
pub fn check_outputs(
    declared: &BTreeMap<String, OutputType>,
    raw: BTreeMap<String, String>,
    longest: usize,
) -> Result<BTreeMap<String, Value>, String> {
    if let Some(missing) = declared.keys().find(|name| !raw.contains_key(*name)) {
        return Err(format!("output `{missing}` is declared but was not given"));
    }
    let mut outputs = BTreeMap::new();
    for (name, text) in raw {
        if text.len() > longest {
            return Err(format!("output `{}` is longer than {longest} bytes", shown(&name)));
        }
        let value = match declared.get(&name) {
            None => Value::String(text),
            Some(kind) => {
                typed(kind, &text).ok_or_else(|| format!("output `{name}` must be {}, not `{}`", type_text(kind), shown(&text)))?
            }
        };
        outputs.insert(name, value);
    }
    let together = serde_json::to_vec(&outputs).map_or(usize::MAX, |json| json.len());
    if together > OUTPUTS_BYTES_MAX {
        return Err(format!(
            "the outputs have {together} bytes together; at most {OUTPUTS_BYTES_MAX} are kept (a large result is an artifact)"
        ));
    }
    Ok(outputs)
}

/// The type as users write it.
fn type_text(kind: &OutputType) -> String {
    match kind {
        OutputType::String => "string".to_owned(),
        OutputType::Number => "number".to_owned(),
        OutputType::Integer => "integer".to_owned(),
        OutputType::Boolean => "boolean".to_owned(),
        OutputType::Object => "object".to_owned(),
        OutputType::List(inner) => format!("{}[]", type_text(inner)),
        OutputType::Enum(words) => format!("enum({})", words.join(", ")),
    }
}

fn typed(kind: &OutputType, text: &str) -> Option<Value> {
    let value = match kind {
        OutputType::String | OutputType::Enum(_) => Value::String(text.to_owned()),
        _ => serde_json::from_str(text.trim()).ok()?,
    };
    fits(kind, &value).then_some(value)
}

fn fits(kind: &OutputType, value: &Value) -> bool {
    match (kind, value) {
        (OutputType::String, Value::String(_))
        | (OutputType::Number, Value::Number(_))
        | (OutputType::Boolean, Value::Bool(_))
        | (OutputType::Object, Value::Object(_)) => true,
        (OutputType::Integer, Value::Number(number)) => !number.is_f64(),
        (OutputType::Enum(words), Value::String(text)) => words.contains(text),
        (OutputType::List(inner), Value::Array(items)) => items.iter().all(|item| fits(inner, item)),
        _ => false,
    }
}
