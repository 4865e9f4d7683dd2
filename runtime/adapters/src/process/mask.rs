//! Hides secret values in what leaves the node. Works on streams: a secret that is split over two reads is hidden too.

use std::collections::BTreeMap;

use amphi_ports::JobNews;
use amphi_protocol::journal::AttemptEnd;
use serde_json::Value;

/// What stands in the place of a secret.
pub const MASK: &str = "***";
/// Lines of a secret of several lines are hidden one by one from this length on.
const LINE_BYTES_MIN: usize = 8;
/// Longest error text of a report.
const ERROR_BYTES_MAX: usize = 4096;

/// The values to hide.
#[derive(Clone, Default)]
pub struct Secrets {
    /// Longest first, so that a secret that begins with another is hidden whole.
    values: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("count", &self.values.len()).finish()
    }
}

impl Secrets {
    /// The values of `secrets`, and the longer lines of those that have several. Empty values hide nothing.
    pub fn new(secrets: &BTreeMap<String, String>) -> Self {
        let mut values: Vec<Vec<u8>> = Vec::new();
        for secret in secrets.values().filter(|secret| !secret.is_empty()) {
            values.push(secret.clone().into_bytes());
            values.extend(secret.lines().map(str::trim).filter(|line| line.len() >= LINE_BYTES_MIN).map(|line| line.as_bytes().to_vec()));
        }
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self { values }
    }

    /// `text` without secrets.
    pub fn hide(&self, text: &str) -> String {
        let mut masker = Masker::new(self);
        let mut bytes = masker.push(text.as_bytes());
        bytes.extend(masker.finish());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of an attempt without secrets, its error cut to what a report may hold.
    pub fn clean(&self, mut end: AttemptEnd) -> AttemptEnd {
        end.error = end.error.map(|error| cut(self.hide(&error)));
        end.outputs.values_mut().for_each(|value| self.hide_in(value));
        for artifact in &mut end.artifacts {
            artifact.path = self.hide(&artifact.path);
        }
        end
    }

    /// News without secrets.
    pub fn clean_news(&self, news: JobNews) -> JobNews {
        match news {
            JobNews::Progress { percent, message } => JobNews::Progress { percent, message: message.map(|text| self.hide(&text)) },
            other @ (JobNews::Started { .. } | JobNews::Active) => other,
        }
    }

    fn hide_in(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.hide(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide_in(item)),
            Value::Object(fields) => fields.values_mut().for_each(|item| self.hide_in(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > ERROR_BYTES_MAX {
        let end = (0..=ERROR_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Hides secrets in a stream.
#[derive(Debug)]
pub struct Masker<'s> {
    secrets: &'s Secrets,
    first: Box<[bool; 256]>,
    held: Vec<u8>,
}

impl<'s> Masker<'s> {
    /// A masker at the start of a stream.
    pub fn new(secrets: &'s Secrets) -> Self {
        let mut first = Box::new([false; 256]);
        for value in &secrets.values {
            first[usize::from(value[0])] = true;
        }
        Self { secrets, first, held: Vec::new() }
    }

    /// What can be shown after `bytes` came in. A possible start of a secret is held back.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.drain(false)
    }

    /// The rest, at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        self.drain(true)
    }

    fn drain(&mut self, at_end: bool) -> Vec<u8> {
        let mut shown = Vec::with_capacity(self.held.len());
        let mut position = 0;
        while let Some(byte) = self.held.get(position) {
            if self.first[usize::from(*byte)] {
                let rest = &self.held[position..];
                if !at_end && self.secrets.values.iter().any(|value| value.len() > rest.len() && value.starts_with(rest)) {
                    break;
                }
                if let Some(value) = self.secrets.values.iter().find(|value| rest.starts_with(value)) {
                    shown.extend_from_slice(MASK.as_bytes());
                    position += value.len();
                    continue;
                }
            }
            shown.push(*byte);
            position += 1;
        }
        self.held.drain(..position);
        shown
    }
}
