//! Durations as people write them: `500ms`, `2s`, `5m`, `1h30m`, `90d`.

use std::time::Duration;

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is no duration")]
pub struct InvalidDuration {
    /// The text, cut.
    pub shown: String,
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads one or more whole numbers, each with one of the units `ms`, `s`, `m`, `h`, `d`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration { shown: text.chars().take(40).flat_map(char::escape_default).collect() };
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit = &rest[digits..digits + letters];
        let (_, factor_ms) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        total_ms = number.checked_mul(factor_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(invalid)?;
        rest = &rest[digits + letters..];
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes what [`parse_duration`] reads, in the largest units that fit.
pub fn show_duration(duration: Duration) -> String {
    let mut rest_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, factor_ms) in UNITS.into_iter().rev() {
        let count = rest_ms / factor_ms;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            rest_ms %= factor_ms;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}
