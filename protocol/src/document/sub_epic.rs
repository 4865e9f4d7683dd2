//! `epic`: a task that is an epic itself, written inline or in a file of its own.
//!
//! It is compiled together with the epic that it is part of, with the values that `with` gives to its inputs, so that all problems of all
//! files are told at once and nothing is left to be read when it runs. Nothing here touches a file: whoever has files hands them in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use crate::api::ErrorCode;
use crate::document::check::{Check, Draft, References, Scope};
use crate::document::compile::document;
use crate::document::plan::{included_count, matrix_values};
use crate::document::report::{Report, shown};
use crate::document::texts::{self, Part};
use crate::document::yaml::{self, Class, Entry, Kind, Node, Place};
use crate::document::{CompileOptions, EpicSpec, Included, Limits, Reference, SubEpic, TaskSpec, Work, input_value, read, value_text};
use crate::ids::{EpicName, ProjectId};

/// How deep sub-epics may stand in each other.
pub const SUB_EPIC_LEVELS_MAX: usize = 8;
/// How many sub-epics an epic may open in all, those of its sub-epics included. Bounds what one cancel or pause has to write down.
pub const SUB_EPICS_MAX: usize = 1_000;
/// Memory that all sub-epics of a document may take, roughly: a matrix or a file that is named often makes copies.
const NESTED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where a sub-epic stands.
pub(super) struct Within {
    /// Its task, for messages.
    pub task: String,
    /// That of the epic around it.
    pub project: ProjectId,
    /// Unless it says another.
    pub priority: u8,
    /// The name of an inline one that says none.
    pub inline: Option<EpicName>,
    /// Inputs that it is given and whose value is not known yet.
    pub open: BTreeSet<String>,
    /// 1 below the document.
    pub level: usize,
    /// The files around it, the outermost first, and its own.
    pub files: Vec<String>,
}

/// What stands below `epic`.
struct Source<'n> {
    root: &'n Node,
    /// Its file, if it is not the one that names it.
    file: Option<(String, PathBuf)>,
}

/// How many bytes a file adds to the document.
pub(super) fn bytes(included: &Included) -> usize {
    match included {
        Included::Text { text, .. } => text.len(),
        Included::Unreadable { .. } => 0,
    }
}

/// The path of a file that is named as `name` in `file`: beside it, without `.` and `..` as far as the text tells.
pub fn beside(file: Option<&str>, name: &str) -> String {
    let folder = file.and_then(|file| file.rsplit_once('/')).map_or("", |(folder, _)| if folder.is_empty() { "/" } else { folder });
    let whole = if name.starts_with('/') || folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => _ = parts.pop(),
            ".." if whole.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    format!("{}{}", if whole.starts_with('/') { "/" } else { "" }, parts.join("/"))
}

/// The files that a document names as sub-epics, as it names them. Whatever is wrong with the document is not told here.
pub fn named_files(source: &str) -> Vec<String> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let mut names = Vec::new();
    if let Ok(root) = yaml::parse(source, &Limits::default(), &mut Vec::new()) {
        collect(&root, &mut names);
    }
    names
}

fn collect(root: &Node, names: &mut Vec<String>) {
    let tasks = entry_of(root, "tasks").map(|tasks| entries_of(&tasks.value)).unwrap_or_default();
    for epic in tasks.iter().filter_map(|task| entry_of(&task.value, "epic")) {
        match &epic.value.kind {
            Kind::Scalar(scalar) if scalar.class == Class::Text && !names.contains(&scalar.text) => names.push(scalar.text.clone()),
            Kind::Scalar(_) | Kind::List(_) => {}
            Kind::Map(_) => collect(&epic.value, names),
        }
    }
}

fn entries_of(node: &Node) -> &[Entry] {
    match &node.kind {
        Kind::Map(entries) => entries,
        Kind::Scalar(_) | Kind::List(_) => &[],
    }
}

fn entry_of<'n>(node: &'n Node, key: &str) -> Option<&'n Entry> {
    entries_of(node).iter().find(|entry| entry.key == key)
}

impl<'d> Check<'d> {
    /// Reads a task that is an epic itself; `fields` are all keys of the task.
    pub(super) fn sub_epic(&mut self, entry: &Entry, fields: &[&Entry], refs: &mut References<'_>) -> Option<Work> {
        let before = self.report.count();
        let field = |key: &str| fields.iter().copied().find(|field| field.key == key);
        let level = self.within.map_or(0, |within| within.level) + 1;
        if level > SUB_EPIC_LEVELS_MAX {
            let message = format!("sub-epics stand in each other at most {SUB_EPIC_LEVELS_MAX} levels deep");
            self.report.error_hint(entry.place, ErrorCode::EpicLimit, message, "put its tasks into the epic that names it");
            return None;
        }
        let parsed;
        let source = if matches!(entry.value.kind, Kind::Map(_)) {
            Source { root: &entry.value, file: None }
        } else {
            let (root, file) = self.included(&entry.value)?;
            parsed = root;
            Source { root: &parsed, file: Some(file) }
        };
        let given = self.given(field("with"), &source, refs);
        let by_matrix = given.iter().any(|(_, value)| value.as_ref().is_some_and(names_matrix));
        let combinations =
            if by_matrix { refs.axes.iter().fold(1, |product: usize, axis| product.saturating_mul(axis.values.len())) } else { 1 };
        if combinations > SUB_EPICS_MAX {
            let message = format!("the matrix makes {combinations} sub-epics; an epic may have {SUB_EPICS_MAX}");
            self.report.error_hint(entry.place, ErrorCode::EpicLimit, message, "make the matrix smaller");
            return None;
        }
        let priority = field("priority").and_then(|field| match &field.value.kind {
            Kind::Scalar(scalar) => scalar.integer().filter(|value| (0..=4).contains(value)),
            Kind::List(_) | Kind::Map(_) => None,
        });
        let mut within = self.within_task(level, &source, priority.map(|priority| priority as u8));
        let mut specs = Vec::with_capacity(combinations);
        for combination in 0..combinations as u32 {
            let values = if by_matrix { matrix_values(refs.axes, combination) } else { Vec::new() };
            specs.push(self.nested(entry.place, &source, &mut within, &given, &values)?.into());
        }
        let undo = specs.iter().any(|spec: &std::sync::Arc<EpicSpec>| has_undo(spec));
        (self.report.count() == before).then_some(Work::Epic(SubEpic { specs, undo }))
    }

    fn within_task(&self, level: usize, source: &Source<'_>, priority: Option<u8>) -> Within {
        let mut files = self.files();
        files.extend(source.file.as_ref().map(|(file, _)| file.clone()));
        let name = self.task.replace('_', "-");
        Within {
            task: self.task.clone(),
            project: self.project.clone().unwrap_or_else(|| ProjectId::parse("default").expect("it is a project")),
            priority: priority.unwrap_or(self.priority),
            inline: source.file.is_none().then(|| EpicName::parse(&name).ok()).flatten(),
            open: BTreeSet::new(),
            level,
            files,
        }
    }

    /// The files around this place, the outermost first.
    fn files(&self) -> Vec<String> {
        match self.within {
            Some(within) => within.files.clone(),
            None => self.options.file.iter().map(|file| beside(None, file)).collect(),
        }
    }

    /// The tree of a file, its name and its folder.
    fn included(&mut self, node: &Node) -> Option<(Node, (String, PathBuf))> {
        let name = read::text(&mut self.report, node, "epic")?;
        if name.is_empty() || name.len() > 4096 || name.contains("${{") || name.chars().any(char::is_control) {
            self.report.wrong(node.place, "`epic` must be the name of a file, without references, or an epic itself");
            return None;
        }
        let files = self.files();
        let path = beside(files.last().map(String::as_str), name);
        if let Some(start) = files.iter().position(|file| *file == path) {
            let circle: Vec<String> = files[start..].iter().chain([&path]).map(|file| shown(file)).collect();
            let message = format!("files name each other as sub-epics in a circle: {}", circle.join(" -> "));
            self.report.error_hint(node.place, ErrorCode::EpicCycle, message, "an epic cannot be a part of itself; take one of these away");
            return None;
        }
        let options = self.options;
        let (text, base) = match options.files.get(&path) {
            Some(Included::Text { text, base }) => (text, base),
            Some(Included::Unreadable { why }) => {
                let message = format!("the sub-epic `{}` cannot be read: {}", shown(name), shown(why));
                self.report.error_hint(node.place, ErrorCode::EpicType, message, format!("it is looked for as {}", shown(&path)));
                return None;
            }
            None => {
                let message = format!("`{}` is the name of a file, which says nothing here", shown(name));
                let hint = "write the sub-epic itself (`epic: {tasks: …}`), or submit with `amphi run FILE`, which brings the files along";
                self.report.error_hint(node.place, ErrorCode::EpicType, message, hint);
                return None;
            }
        };
        let former = self.report.enter(Some(path.clone()));
        let mut duplicates = Vec::new();
        let source = text.strip_prefix('\u{feff}').unwrap_or(text);
        let tree = yaml::parse(source, &options.limits, &mut duplicates);
        duplicates.into_iter().for_each(|duplicate| self.report.refused(duplicate));
        let root = tree.map_err(|found| self.report.refused(found)).ok();
        self.report.enter(former);
        root.map(|root| (root, (path, base.clone())))
    }

    /// What `with` gives: name, and value with its references unless it is wrong. What the sub-epic does not ask for is a problem.
    fn given(&mut self, with: Option<&Entry>, source: &Source<'_>, refs: &References<'_>) -> Vec<(String, Option<Value>)> {
        let Some(with) = with else { return Vec::new() };
        let asked = entry_of(source.root, "inputs").map(|inputs| entries_of(&inputs.value)).unwrap_or_default();
        let mut given = Vec::new();
        for entry in read::mapping(&mut self.report, &with.value, "with").unwrap_or_default() {
            if !asked.iter().any(|input| input.key == entry.key) {
                let hint = self.report.suggest(&entry.key, asked.iter().map(|input| input.key.as_str()));
                let hint = hint.unwrap_or_else(|| format!("declare it there: `inputs: {{{}: …}}`", shown(&entry.key)));
                let message = format!("the sub-epic has no input `{}`", shown(&entry.key));
                self.report.error_hint(entry.place, ErrorCode::EpicType, message, hint);
                continue;
            }
            let value = if self.planned_texts(&entry.value, refs) { Some(entry.value.json()) } else { None };
            if let Some(Err(place)) = value {
                self.report.wrong(place, "`with` holds a number that is not finite or too large");
            }
            given.push((entry.key.clone(), value.and_then(Result::ok)));
        }
        given
    }

    /// True if the texts below hold nothing that is only known when something runs. Depth is bounded by the parser.
    fn planned_texts(&mut self, node: &Node, refs: &References<'_>) -> bool {
        match &node.kind {
            Kind::Scalar(scalar) if scalar.class == Class::Text => {
                let late = texts::parts(&scalar.text).into_iter().find_map(|(_, part)| match part {
                    Part::Reference(Ok(reference @ (Reference::Output { .. } | Reference::Secret(_)))) => Some(reference),
                    Part::Reference(_) | Part::Text(_) | Part::Open => None,
                });
                if let Some(reference) = late {
                    let message = format!("`{reference}` is not known when the sub-epic is read: `with` may hold inputs and the matrix");
                    let hint = "let a task of the sub-epic get the value itself, or put the tasks of the sub-epic into this epic";
                    self.report.error_hint(node.place, ErrorCode::EpicType, message, hint);
                    return false;
                }
                let before = self.report.count();
                self.references(node, &scalar.text, Scope::Planned, &mut References::of(refs.axes));
                self.report.count() == before
            }
            Kind::Scalar(_) => true,
            Kind::List(items) => items.iter().all(|item| self.planned_texts(item, refs)),
            Kind::Map(entries) => entries.iter().all(|entry| self.planned_texts(&entry.value, refs)),
        }
    }

    /// Compiles the sub-epic with the values of one combination.
    fn nested(
        &mut self,
        place: Place,
        source: &Source<'_>,
        within: &mut Within,
        given: &[(String, Option<Value>)],
        matrix: &[(&str, &str)],
    ) -> Option<EpicSpec> {
        self.report.nested = self.report.nested.saturating_add(source.root.cost());
        if self.report.nested > NESTED_BYTES_MAX {
            let message = format!("the sub-epics of the document take more than {} MiB together", NESTED_BYTES_MAX >> 20);
            self.report.error_hint(place, ErrorCode::EpicLimit, message, "name large sub-epics less often, or make the matrices smaller");
            return None;
        }
        let mut inputs = BTreeMap::new();
        within.open.clear();
        for (name, value) in given {
            match value.as_ref().and_then(|value| self.filled(value, matrix)) {
                Some(value) => _ = inputs.insert(name.clone(), value),
                None => _ = within.open.insert(name.clone()),
            }
        }
        let (file, workspace_base) = match &source.file {
            Some((file, base)) => (Some(file.clone()), Some(base.clone())),
            None => (self.options.file.clone(), self.options.workspace_base.clone()),
        };
        let options = CompileOptions { file: file.clone(), inputs, workspace_base, ..self.options.clone() };
        let mut report = std::mem::replace(&mut self.report, Report::new(None, false));
        let former = report.enter(file);
        let (spec, mut report) = document(source.root, report, &options, Some(within));
        report.enter(former);
        self.report = report;
        spec
    }

    /// A value with its references resolved; `None` if the value of an input is still missing.
    fn filled(&self, value: &Value, matrix: &[(&str, &str)]) -> Option<Value> {
        let of_matrix = |axis: &str| matrix.iter().find(|(name, _)| *name == axis).map(|(_, value)| (*value).to_owned());
        match value {
            Value::String(text) => {
                if let [(_, Part::Reference(Ok(Reference::Input(path))))] = texts::parts(text).as_slice() {
                    // Alone, it keeps its type.
                    return input_value(&self.known, path).cloned();
                }
                let mut missing = false;
                let filled = texts::replace(text, |reference| {
                    let value = match reference {
                        Reference::Input(path) => input_value(&self.known, path).map(value_text),
                        Reference::Matrix(axis) => of_matrix(axis),
                        Reference::Output { .. } | Reference::Secret(_) => None,
                    };
                    missing |= value.is_none();
                    value
                });
                (!missing).then_some(Value::String(filled))
            }
            Value::Array(items) => items.iter().map(|item| self.filled(item, matrix)).collect::<Option<Vec<_>>>().map(Value::Array),
            Value::Object(map) => {
                let filled = map.iter().map(|(key, item)| Some((key.clone(), self.filled(item, matrix)?)));
                filled.collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => Some(value.clone()),
        }
    }

    /// A sub-epic shares locks, keys and priority rules with the epic around it.
    pub(super) fn same_project(&mut self, entry: &Entry, project: &ProjectId) -> bool {
        let Some(within) = self.within.filter(|within| within.project != *project) else { return true };
        let message = format!("the sub-epic belongs to project `{project}`, and the epic around it to `{}`", within.project);
        self.report.error_hint(entry.value.place, ErrorCode::EpicType, message, "leave `project` out, or give both the same");
        false
    }
}

fn names_matrix(value: &Value) -> bool {
    match value {
        Value::String(text) => texts::parts(text).into_iter().any(|(_, part)| matches!(part, Part::Reference(Ok(Reference::Matrix(_))))),
        Value::Array(items) => items.iter().any(names_matrix),
        Value::Object(map) => map.values().any(names_matrix),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn has_undo(spec: &EpicSpec) -> bool {
    spec.tasks.iter().any(|task| task.undo.is_some() || matches!(&task.work, Work::Epic(epic) if epic.undo))
}

/// The limits hold for an epic together with all that is below it.
pub(super) fn extent_fits(check: &mut Check<'_>, drafts: &[Draft], place: Place) {
    if !drafts.iter().any(|draft| matches!(draft.spec.work, Work::Epic(_))) {
        return;
    }
    let (runs, epics) = drafts.iter().map(|draft| extent_of(&draft.spec)).fold((0u64, 0u64), add);
    let limit = check.options.limits.runs as u64;
    if runs > limit {
        let message = format!("with its sub-epics the epic has {runs} runs; at most {limit} are allowed");
        check.report.error_hint(place, ErrorCode::EpicLimit, message, "split the epic, or make the matrices smaller");
    }
    if epics > SUB_EPICS_MAX as u64 {
        let message = format!("the epic has {epics} sub-epics, those of its sub-epics included; at most {SUB_EPICS_MAX} are allowed");
        check.report.error_hint(place, ErrorCode::EpicLimit, message, "split the epic, or make the matrices smaller");
    }
}

fn add(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0.saturating_add(other.0), one.1.saturating_add(other.1))
}

/// Runs and sub-epics of an epic with all that is below it.
fn extent(spec: &EpicSpec) -> (u64, u64) {
    spec.tasks.iter().map(extent_of).fold((0, 0), add)
}

fn extent_of(task: &TaskSpec) -> (u64, u64) {
    let count = u64::from(included_count(task));
    let Work::Epic(epic) = &task.work else { return (count, 0) };
    // What `exclude` leaves out is counted with the rest where each combination has an epic of its own.
    let (runs, epics) = epic.specs.iter().map(|spec| extent(spec)).fold((0, 0), add);
    match epic.specs.len() {
        1 => (count.saturating_mul(runs.saturating_add(1)), count.saturating_mul(epics.saturating_add(1))),
        _ => (count.saturating_add(runs), count.saturating_add(epics)),
    }
}
