//! `matrix` and `exclude`: axes, their values, and how many runs come of them.

use std::collections::{BTreeMap, HashSet};

use crate::api::ErrorCode;
use crate::document::read;
use crate::document::report::{Report, shown};
use crate::document::yaml::{Entry, Kind, Node, Place};
use crate::document::{Limits, MatrixAxis};

/// Most axes of one matrix.
const AXES_MAX: usize = 8;
/// Most entries of one `exclude`.
const EXCLUDES_MAX: usize = 1_000;
/// Combinations times excludes, over the whole document: what expanding it costs.
const EXCLUDE_WORK_MAX: usize = 20_000_000;

/// What all matrices of a document add up to.
#[derive(Debug, Default)]
pub(super) struct Size {
    runs: usize,
    /// Values of all axes: what they cost in memory.
    values: usize,
    combinations: usize,
    exclude_work: usize,
    reported: bool,
}

/// Reads a task's matrix.
pub(super) fn axes(report: &mut Report, node: &Node, size: &mut Size, limits: &Limits) -> Option<Vec<MatrixAxis>> {
    let entries = read::mapping(report, node, "matrix")?;
    if entries.is_empty() {
        report.wrong(node.place, "the matrix has no axis");
        return None;
    }
    if entries.len() > AXES_MAX {
        report.error(node.place, ErrorCode::EpicLimit, format!("the matrix has more than {AXES_MAX} axes"));
        return None;
    }
    let axes: Vec<_> = entries.iter().filter_map(|entry| axis(report, entry, size, limits)).collect();
    (axes.len() == entries.len()).then_some(axes)
}

fn axis(report: &mut Report, entry: &Entry, size: &mut Size, limits: &Limits) -> Option<MatrixAxis> {
    if !is_word(&entry.key) {
        report.wrong(entry.place, format!("`{}` is no axis name: expected up to 64 of A-Z a-z 0-9 - _", shown(&entry.key)));
        return None;
    }
    let what = format!("axis `{}`", entry.key);
    let values = match &entry.value.kind {
        Kind::Scalar(scalar) => match scalar.text.split_once("..") {
            Some((low, high)) => range(report, (low, high), entry.value.place, &what, size, limits)?,
            None => {
                let message = format!("{what} must be a range or a list, not `{}`", shown(&scalar.text));
                report.error_hint(entry.value.place, ErrorCode::EpicType, message, "write `1..20` or `[a, b]`");
                return None;
            }
        },
        Kind::List(items) if !size.add_values(report, entry.value.place, items.len(), limits) => return None,
        Kind::List(items) => listed(report, items, &what)?,
        Kind::Map(_) => {
            report.wrong(entry.value.place, format!("{what} must be a range or a list, not a mapping"));
            return None;
        }
    };
    if values.is_empty() {
        report.wrong(entry.value.place, format!("{what} has no value"));
        return None;
    }
    Some(MatrixAxis { axis: entry.key.clone(), values })
}

fn range(
    report: &mut Report,
    (low, high): (&str, &str),
    place: Place,
    what: &str,
    size: &mut Size,
    limits: &Limits,
) -> Option<Vec<String>> {
    let (Ok(low), Ok(high)) = (low.trim().parse::<i64>(), high.trim().parse::<i64>()) else {
        report.error_hint(place, ErrorCode::EpicType, format!("{what} is no range"), "write it as `1..20`, both ends included");
        return None;
    };
    if low > high {
        report.wrong(place, format!("{what} runs backwards: {low}..{high}"));
        return None;
    }
    let count = high.abs_diff(low).saturating_add(1);
    if count > limits.runs as u64 {
        report.error(place, ErrorCode::EpicLimit, format!("{what} has {count} values; an epic may have {} runs", limits.runs));
        return None;
    }
    if !size.add_values(report, place, count as usize, limits) {
        return None;
    }
    Some((low..=high).map(|value| value.to_string()).collect())
}

fn listed(report: &mut Report, items: &[Node], what: &str) -> Option<Vec<String>> {
    let before = report.count();
    let mut seen = HashSet::new();
    let mut values = Vec::new();
    for item in items {
        let Some(text) = read::scalar_text(report, item, &format!("a value of {what}")) else { continue };
        if !is_value(text) {
            let message = format!("`{}` cannot be a value of {what}: expected up to 64 of A-Z a-z 0-9 _ . : -", shown(text));
            report.wrong(item.place, message);
        } else if !seen.insert(text) {
            report.wrong(item.place, format!("{what} has the value `{text}` twice"));
        } else {
            values.push(text.to_owned());
        }
    }
    (report.count() == before).then_some(values)
}

pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn is_value(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'-'))
}

/// Reads a task's `exclude`: combinations (or parts of them) that are left out.
pub(super) fn excludes(report: &mut Report, node: &Node, axes: &[MatrixAxis]) -> Option<Vec<BTreeMap<String, String>>> {
    let items = read::list(report, node, "exclude")?;
    if items.len() > EXCLUDES_MAX {
        report.error(node.place, ErrorCode::EpicLimit, format!("`exclude` has more than {EXCLUDES_MAX} entries"));
        return None;
    }
    let before = report.count();
    let mut excludes = Vec::new();
    for item in items {
        let mut exclude = BTreeMap::new();
        for entry in read::mapping(report, item, "an entry of exclude").unwrap_or_default() {
            let Some(axis) = axes.iter().find(|axis| axis.axis == entry.key) else {
                let hint = report.suggest(&entry.key, axes.iter().map(|axis| axis.axis.as_str()));
                let message = format!("the matrix has no axis `{}`", shown(&entry.key));
                report.error_hint(
                    entry.place,
                    ErrorCode::EpicType,
                    message,
                    hint.unwrap_or_else(|| "name an axis of the matrix".to_owned()),
                );
                continue;
            };
            let Some(text) = read::scalar_text(report, &entry.value, "an excluded value") else { continue };
            if !axis.values.iter().any(|value| value == text) {
                report.wrong(entry.value.place, format!("axis `{}` has no value `{}`", axis.axis, shown(text)));
                continue;
            }
            exclude.insert(entry.key.clone(), text.to_owned());
        }
        if exclude.is_empty() && report.count() == before {
            report.wrong(item.place, "an entry of `exclude` names no axis");
        }
        excludes.push(exclude);
    }
    (report.count() == before).then_some(excludes)
}

impl Size {
    /// Counts a task's runs; a document that is too large is reported once.
    pub(super) fn add(
        &mut self,
        report: &mut Report,
        place: Place,
        axes: &[MatrixAxis],
        excludes: &[BTreeMap<String, String>],
        limits: &Limits,
    ) {
        let combinations = axes.iter().fold(1usize, |product, axis| product.saturating_mul(axis.values.len()));
        self.combinations = self.combinations.saturating_add(combinations);
        self.exclude_work = self.exclude_work.saturating_add(combinations.saturating_mul(excludes.len()));
        let too_much = self.combinations > limits.runs.saturating_mul(4) || self.exclude_work > EXCLUDE_WORK_MAX;
        let runs = if too_much { combinations } else { combinations - excluded(axes, excludes, combinations) };
        self.runs = self.runs.saturating_add(runs);
        if too_much || self.runs > limits.runs {
            self.report(report, place, format!("with this task the epic has more than {} runs", limits.runs));
        } else if runs == 0 {
            report.wrong(place, "`exclude` leaves no run of the matrix");
        }
    }

    /// Counts values before they are made. False: do not make them.
    fn add_values(&mut self, report: &mut Report, place: Place, count: usize, limits: &Limits) -> bool {
        self.values = self.values.saturating_add(count);
        let fits = self.values <= limits.runs.saturating_mul(AXES_MAX);
        if !fits {
            self.report(report, place, "the matrices of the epic have too many values".to_owned());
        }
        fits
    }

    /// That the document is too large is said once, and the task where it happened is named.
    fn report(&mut self, report: &mut Report, place: Place, message: String) {
        if !self.reported {
            self.reported = true;
            report.error_hint(place, ErrorCode::EpicLimit, message, "split the epic, or make the matrices smaller");
        }
    }
}

/// How many combinations are left out. Walks the matrix like an odometer.
fn excluded(axes: &[MatrixAxis], excludes: &[BTreeMap<String, String>], combinations: usize) -> usize {
    if excludes.is_empty() {
        return 0;
    }
    let wanted: Vec<Vec<Option<usize>>> = excludes
        .iter()
        .map(|exclude| axes.iter().map(|axis| exclude.get(&axis.axis).and_then(|v| axis.values.iter().position(|x| x == v))).collect())
        .collect();
    let mut place = vec![0usize; axes.len()];
    let mut count = 0;
    for _ in 0..combinations {
        let hit = |want: &Vec<Option<usize>>| want.iter().zip(&place).all(|(want, have)| want.is_none_or(|want| want == *have));
        count += usize::from(wanted.iter().any(hit));
        for (digit, axis) in place.iter_mut().zip(axes).rev() {
            *digit += 1;
            if *digit < axis.values.len() {
                break;
            }
            *digit = 0;
        }
    }
    count
}
