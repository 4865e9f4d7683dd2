//! Typed reading of single values. Each reader reports what is wrong and gives `None`, so that the rest is checked too.

use crate::api::ErrorCode;
use crate::document::report::{Report, shown};
use crate::document::yaml::{Class, Entry, Kind, Node};

/// Longest duration: a year.
const DURATION_MS_MAX: u64 = 365 * 24 * 3600 * 1000;

/// The entries of a mapping, all of whose keys are in `tables`. Keys that begin with `x-` are left out.
pub(super) fn fields<'n>(report: &mut Report, node: &'n Node, what: &str, tables: &[&[&str]]) -> Option<Vec<&'n Entry>> {
    let entries = mapping(report, node, what)?;
    let mut known = Vec::with_capacity(entries.len());
    for entry in entries {
        if tables.iter().any(|table| table.contains(&entry.key.as_str())) {
            known.push(entry);
        } else {
            unknown_key(report, entry, what, tables);
        }
    }
    Some(known)
}

fn unknown_key(report: &mut Report, entry: &Entry, what: &str, tables: &[&[&str]]) {
    let message = format!("{what} has no key `{}`", shown(&entry.key));
    if report.is_full() {
        report.error(entry.place, ErrorCode::EpicUnknownKey, message);
        return;
    }
    let hint = match entry.key.as_str() {
        "<<" => Some("merge keys are not read; use `defaults` for what all tasks share".to_owned()),
        key => report.suggest(key, tables.iter().flat_map(|table| table.iter().copied())),
    };
    let hint = hint.unwrap_or_else(|| {
        let keys: Vec<&str> = tables.iter().flat_map(|table| table.iter().copied()).collect();
        format!("known keys: {}; your own begin with `x-`", keys.join(", "))
    });
    report.error_hint(entry.place, ErrorCode::EpicUnknownKey, message, hint);
}

/// The entries of a mapping, without the `x-` ones.
pub(super) fn mapping<'n>(report: &mut Report, node: &'n Node, what: &str) -> Option<Vec<&'n Entry>> {
    match &node.kind {
        Kind::Map(entries) => Some(entries.iter().filter(|entry| !entry.key.starts_with("x-")).collect()),
        Kind::Scalar(_) | Kind::List(_) => {
            report.wrong(node.place, format!("{what} must be a mapping, not {}", node.class()));
            None
        }
    }
}

/// The items of a list.
pub(super) fn list<'n>(report: &mut Report, node: &'n Node, what: &str) -> Option<&'n [Node]> {
    match &node.kind {
        Kind::List(items) => Some(items),
        Kind::Scalar(_) | Kind::Map(_) => {
            let message = format!("{what} must be a list, not {}", node.class());
            report.error_hint(node.place, ErrorCode::EpicType, message, "write it as `[a, b]`");
            None
        }
    }
}

/// A text. Numbers and booleans are refused with a hint to quote them.
pub(super) fn text<'n>(report: &mut Report, node: &'n Node, what: &str) -> Option<&'n str> {
    if let Kind::Scalar(scalar) = &node.kind {
        match scalar.class {
            Class::Text => return Some(&scalar.text),
            Class::Null => {}
            Class::Boolean(_) | Class::Integer | Class::Number | Class::NotFinite => {
                let message = format!("{what} must be a text, not {}", node.class());
                report.error_hint(node.place, ErrorCode::EpicType, message, format!("put it in quotes: '{}'", shown(&scalar.text)));
                return None;
            }
        }
    }
    report.wrong(node.place, format!("{what} must be a text, not {}", node.class()));
    None
}

/// Any scalar as the text that was written.
pub(super) fn scalar_text<'n>(report: &mut Report, node: &'n Node, what: &str) -> Option<&'n str> {
    match &node.kind {
        Kind::Scalar(scalar) if scalar.class != Class::Null => Some(&scalar.text),
        Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) => {
            report.wrong(node.place, format!("{what} must be a text, a number or a boolean, not {}", node.class()));
            None
        }
    }
}

/// A list of texts.
pub(super) fn texts<'n>(report: &mut Report, node: &'n Node, what: &str) -> Option<Vec<(&'n str, &'n Node)>> {
    let items = list(report, node, what)?;
    let texts: Vec<_> = items.iter().filter_map(|item| text(report, item, &format!("an entry of {what}")).map(|t| (t, item))).collect();
    (texts.len() == items.len()).then_some(texts)
}

/// A whole number in a range.
pub(super) fn integer(report: &mut Report, node: &Node, what: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    let (low, high) = (*range.start(), *range.end());
    let value = match &node.kind {
        Kind::Scalar(scalar) => scalar.integer(),
        Kind::List(_) | Kind::Map(_) => None,
    };
    let value = value.and_then(|value| u32::try_from(value).ok()).filter(|value| range.contains(value));
    if value.is_none() {
        let found = match &node.kind {
            Kind::Scalar(scalar) => format!("`{}`", shown(&scalar.text)),
            Kind::List(_) | Kind::Map(_) => node.class().to_owned(),
        };
        report.wrong(node.place, format!("{what} must be a whole number from {low} to {high}, not {found}"));
    }
    value
}

/// `true` or `false`.
pub(super) fn boolean(report: &mut Report, node: &Node, what: &str) -> Option<bool> {
    if let Kind::Scalar(scalar) = &node.kind
        && let Class::Boolean(value) = scalar.class
    {
        return Some(value);
    }
    report.wrong(node.place, format!("{what} must be true or false, not {}", node.class()));
    None
}

/// `500ms`, `10s`, `5m`, `2h`, `1d`, in milliseconds.
pub(super) fn duration(report: &mut Report, node: &Node, what: &str, low_ms: u64) -> Option<u64> {
    const HINT: &str = "write a number and a unit: 500ms, 10s, 5m, 2h, 1d";
    let Kind::Scalar(scalar) = &node.kind else {
        report.error_hint(node.place, ErrorCode::EpicType, format!("{what} must be a duration, not {}", node.class()), HINT);
        return None;
    };
    if scalar.class == Class::Integer {
        let message = format!("{what} has no unit: `{}`", shown(&scalar.text));
        report.error_hint(node.place, ErrorCode::EpicType, message, format!("seconds are written `{}s`", shown(&scalar.text)));
        return None;
    }
    let Some(ms) = parse_duration(&scalar.text) else {
        let message = format!("{what} is no duration: `{}`", shown(&scalar.text));
        report.error_hint(node.place, ErrorCode::EpicType, message, HINT);
        return None;
    };
    if ms < low_ms || ms > DURATION_MS_MAX {
        report.wrong(node.place, format!("{what} must lie between {low_ms}ms and 365d"));
        return None;
    }
    Some(ms)
}

/// A duration as users write it, in milliseconds.
pub fn parse_duration(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..unit_at].parse().ok()?;
    let unit_ms = match &text[unit_at..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        _ => return None,
    };
    number.checked_mul(unit_ms)
}
