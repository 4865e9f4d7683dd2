//! From a text to a specification, or to everything that is wrong with it.
//!
//! The stages: text to tree, top-level keys, tasks, graph, references between tasks. A stage goes on after a problem wherever what
//! follows still makes sense, so that one run finds all of them.

use std::collections::HashMap;

use crate::api::ErrorCode;
use crate::document::check::{Check, Draft, References, Scope};
use crate::document::graph::{Graph, Links};
use crate::document::inputs;
use crate::document::matrix::Size;
use crate::document::options::{CompileOptions, Compiled};
use crate::document::report::{Report, shown};
use crate::document::sub_epic::{Within, extent_fits};
use crate::document::yaml::{self, Entry, Node, Place};
use crate::document::{EpicSpec, LEASE_MS_DEFAULT, OnFailure, Reference, ResourceSpec, keys, read, sub_epic};
use crate::ids::{EpicName, ID_LENGTH_MAX, InvalidId, PhaseName, ProjectId, Resource};

/// Cycles that are told apart in one document.
const CYCLES_MAX: usize = 10;
/// Names of a cycle that are written out.
const CYCLE_NAMES_MAX: usize = 60;
/// Memory that all copies of the defaults may take, roughly.
const INHERITED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most tasks of one `on_change`.
const ON_CHANGE_MAX: usize = 256;
/// Longest title.
const TITLE_CHARS_MAX: usize = 500;

/// [`compile`] for bytes that came from outside: what is not UTF-8 is a problem like any other.
pub fn compile_bytes(source: &[u8], options: &CompileOptions) -> Compiled {
    if source.len() > options.limits.document_bytes {
        return too_large(source.len(), options);
    }
    match std::str::from_utf8(source) {
        Ok(text) => compile(text, options),
        Err(error) => {
            let before = String::from_utf8_lossy(&source[..error.valid_up_to()]);
            let line = before.bytes().filter(|b| *b == b'\n').count() as u32 + 1;
            let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) as u32 + 1;
            let hint = "save the file as UTF-8";
            refused(options, Place { line, column }, ErrorCode::EpicSyntax, "the document is not UTF-8".to_owned(), Some(hint))
        }
    }
}

/// Compiles a document, YAML or JSON. All problems are reported at once.
pub fn compile(source: &str, options: &CompileOptions) -> Compiled {
    let included: usize = options.files.values().map(sub_epic::bytes).sum();
    if source.len().saturating_add(included) > options.limits.document_bytes {
        return too_large(source.len().saturating_add(included), options);
    }
    let mut duplicates = Vec::new();
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let tree = yaml::parse(source, &options.limits, &mut duplicates);
    let mut report = Report::new(options.file.clone(), options.strict);
    duplicates.into_iter().for_each(|duplicate| report.refused(duplicate));
    let root = match tree {
        Ok(root) => root,
        Err(found) => {
            report.refused(found);
            let (problems, warnings) = report.finish();
            return Compiled { spec: None, problems, warnings };
        }
    };
    let (spec, report) = document(&root, report, options, None);
    let (problems, warnings) = report.finish();
    Compiled { spec: spec.filter(|_| problems.is_empty()), problems, warnings }
}

fn refused(options: &CompileOptions, place: Place, code: ErrorCode, message: String, hint: Option<&str>) -> Compiled {
    let mut report = Report::new(options.file.clone(), options.strict);
    match hint {
        Some(hint) => report.error_hint(place, code, message, hint),
        None => report.error(place, code, message),
    }
    let (problems, warnings) = report.finish();
    Compiled { spec: None, problems, warnings }
}

fn too_large(bytes: usize, options: &CompileOptions) -> Compiled {
    let message = format!("the document has {bytes} bytes; at most {} are allowed", options.limits.document_bytes);
    refused(options, Place::START, ErrorCode::EpicLimit, message, Some("split the epic"))
}

fn default_project() -> ProjectId {
    ProjectId::parse("default").expect("it is a project")
}

/// The whole document. The specification is only good if nothing was reported.
pub(super) fn document(root: &Node, mut report: Report, options: &CompileOptions, within: Option<&Within>) -> (Option<EpicSpec>, Report) {
    let Some(fields) = read::fields(&mut report, root, "the epic", &[keys::TOP]) else { return (None, report) };
    let field = |key: &str| fields.iter().copied().find(|entry| entry.key == key);
    let inputs = inputs::read(&mut report, field("inputs"), options, within);
    let mut check = Check {
        options,
        within,
        report,
        known: inputs.known(),
        inputs,
        phases: Vec::new(),
        phase_places: Vec::new(),
        phase_index: HashMap::new(),
        task_names: Vec::new(),
        task_index: HashMap::new(),
        priority: within.map_or(2, |within| within.priority),
        on_change: Vec::new(),
        task: String::new(),
        project: None,
    };
    let spec = check.header(root, &field);
    let drafts = match field("tasks") {
        Some(tasks) => check.tasks(tasks, field("defaults")),
        None => {
            check.report.error(root.place, ErrorCode::EpicLimit, "the epic has no tasks");
            if let Some(defaults) = field("defaults") {
                check.defaults(defaults);
            }
            Vec::new()
        }
    };
    check.graph(&drafts);
    extent_fits(&mut check, &drafts, field("tasks").map_or(root.place, |entry| entry.place));
    let on_change = check.on_change();
    let Check { report, .. } = check;
    let spec = spec.map(|mut spec| {
        for (resource, tasks) in on_change {
            spec.resources.entry(resource).and_modify(|declared| declared.on_change = tasks);
        }
        spec
    });
    let spec = spec.map(|spec| EpicSpec { tasks: drafts.into_iter().map(|draft| draft.spec).collect(), ..spec });
    (spec, report)
}

impl<'d> Check<'d> {
    /// Everything but the tasks.
    fn header(&mut self, root: &Node, field: &impl Fn(&str) -> Option<&'d Entry>) -> Option<EpicSpec> {
        let inline = self.within.and_then(|within| within.inline.clone());
        if inline.is_none() || field("version").is_some() {
            self.version(root, field("version"));
        }
        let name = match field("name") {
            Some(entry) => self.id(entry, "name", EpicName::parse),
            None if inline.is_some() => inline,
            None => {
                self.report.error_hint(root.place, ErrorCode::EpicType, "the epic has no `name`", "add `name: my-epic`");
                None
            }
        };
        let project = match field("project") {
            Some(entry) => self.id(entry, "project", ProjectId::parse).filter(|project| self.same_project(entry, project)),
            None => Some(self.within.map_or_else(default_project, |within| within.project.clone())),
        };
        if let Some(entry) = field("priority") {
            self.priority =
                read::integer(&mut self.report, &entry.value, "priority", 0..=4).map_or(self.priority, |priority| priority as u8);
        }
        if let Some(entry) = field("budget") {
            self.budget(&entry.value);
        }
        if let Some(entry) = field("phases") {
            self.phases(entry);
        }
        self.project.clone_from(&project);
        let on_failure = field("on_failure").map(|entry| self.on_failure(&entry.value)).unwrap_or_default();
        let title = field("title").and_then(|entry| self.title(&entry.value));
        let workspace = field("workspace").and_then(|entry| self.workspace(entry)).unwrap_or_default();
        let resources = field("resources").map(|entry| self.resources(&entry.value)).unwrap_or_default();
        let reference = field("ref").and_then(|entry| self.outside_reference(&entry.value));
        Some(EpicSpec {
            name: name?,
            title,
            project: project?,
            priority: self.priority,
            inputs: self.known.clone(),
            workspace,
            phases: self.phases.clone(),
            resources,
            on_failure,
            reference,
            tasks: Vec::new(),
        })
    }

    fn version(&mut self, root: &Node, entry: Option<&Entry>) {
        const HINT: &str = "this release reads `version: 1`";
        let (place, message) = match entry {
            None => (root.place, "the epic has no `version`".to_owned()),
            Some(entry) => {
                let found = match &entry.value.kind {
                    yaml::Kind::Scalar(scalar) if scalar.integer() == Some(1) => return,
                    yaml::Kind::Scalar(scalar) => format!("`{}`", shown(&scalar.text)),
                    yaml::Kind::List(_) | yaml::Kind::Map(_) => entry.value.class().to_owned(),
                };
                (entry.value.place, format!("`version` must be 1, not {found}"))
            }
        };
        self.report.error_hint(place, ErrorCode::EpicType, message, HINT);
    }

    fn id<T>(&mut self, entry: &Entry, what: &str, parse: impl Fn(&str) -> Result<T, InvalidId>) -> Option<T> {
        let text = read::text(&mut self.report, &entry.value, what)?;
        match parse(text) {
            Ok(id) => Some(id),
            Err(error) => {
                let code = if text.len() > ID_LENGTH_MAX { ErrorCode::EpicLimit } else { ErrorCode::EpicType };
                self.report.error(entry.value.place, code, error.to_string());
                None
            }
        }
    }

    fn title(&mut self, node: &Node) -> Option<String> {
        let text = read::text(&mut self.report, node, "title")?;
        let mut refs = References::of(&[]);
        self.references(node, text, Scope::Document, &mut refs);
        let title = self.with_inputs(text).trim().to_owned();
        if title.chars().count() > TITLE_CHARS_MAX {
            self.report.error(node.place, ErrorCode::EpicLimit, format!("the title has more than {TITLE_CHARS_MAX} characters"));
            return None;
        }
        if title.chars().any(char::is_control) {
            self.report.wrong(node.place, "the title is one line without control characters");
            return None;
        }
        Some(title)
    }

    /// Checks a budget and refuses it: nothing of this release would keep to it.
    pub(super) fn budget(&mut self, node: &Node) {
        if let Some(fields) = read::fields(&mut self.report, node, "budget", &[keys::BUDGET]) {
            for field in fields {
                match field.key.as_str() {
                    "wall" => _ = read::duration(&mut self.report, &field.value, "wall", 1),
                    "turns" => _ = read::integer(&mut self.report, &field.value, "turns", 1..=1_000_000),
                    "on_exceed" => self.word(&field.value, "on_exceed", &["pause", "fail", "cancel"]),
                    key => self.amount(&field.value, key),
                }
            }
            self.unsupported(node.place, "an epic with a `budget`", "leave it out; `timeout` limits the time of a task");
        }
    }

    /// `6.00`, `2M`, `500k`.
    fn amount(&mut self, node: &Node, what: &str) {
        let Some(text) = read::scalar_text(&mut self.report, node, what) else { return };
        let number = text.strip_suffix(['k', 'M', 'G']).unwrap_or(text);
        if !number.parse::<f64>().is_ok_and(|number| number.is_finite() && number >= 0.0) {
            self.report.wrong(node.place, format!("`{what}` is no amount: `{}`", shown(text)));
        }
    }

    fn phases(&mut self, entry: &Entry) {
        for (text, item) in read::texts(&mut self.report, &entry.value, "phases").unwrap_or_default() {
            match PhaseName::parse(text) {
                Ok(phase) => {
                    let position = self.phases.len() as u32;
                    if self.phase_index.contains_key(text) {
                        self.report.wrong(item.place, format!("phase `{phase}` is listed twice"));
                    } else {
                        self.phase_index.insert(text.to_owned(), position);
                        self.phases.push(phase);
                        self.phase_places.push(item.place);
                    }
                }
                Err(error) => {
                    let code = if text.len() > ID_LENGTH_MAX { ErrorCode::EpicLimit } else { ErrorCode::EpicType };
                    self.report.error(item.place, code, error.to_string());
                }
            }
        }
    }

    fn on_failure(&mut self, node: &Node) -> OnFailure {
        match read::text(&mut self.report, node, "on_failure") {
            Some("undo") => return OnFailure::Undo,
            Some("stop") | None => {}
            Some(other) => {
                let message = format!("on_failure cannot be `{}`", shown(other));
                self.report.error_hint(node.place, ErrorCode::EpicType, message, "expected stop or undo");
            }
        }
        OnFailure::Stop
    }

    /// The positions of the tasks that each `on_change` lists.
    fn on_change(&mut self) -> Vec<(Resource, Vec<u32>)> {
        let listed = std::mem::take(&mut self.on_change);
        let mut resolved = Vec::with_capacity(listed.len());
        for (resource, tasks) in listed {
            let mut positions = Vec::new();
            for (name, place) in tasks {
                match self.task_position(place, name) {
                    Some(position) if positions.contains(&position) => {
                        self.report.wrong(place, format!("`on_change` names `{}` twice", shown(name)));
                    }
                    Some(position) => positions.push(position),
                    None => {}
                }
            }
            resolved.push((resource, positions));
        }
        resolved
    }

    fn resources(&mut self, node: &'d Node) -> std::collections::BTreeMap<Resource, ResourceSpec> {
        let mut resources = std::collections::BTreeMap::new();
        for entry in read::mapping(&mut self.report, node, "resources").unwrap_or_default() {
            let key = Node {
                place: entry.place,
                kind: yaml::Kind::Scalar(yaml::Scalar { text: entry.key.clone(), class: yaml::Class::Text, literal: false }),
            };
            let fits = self.resource(&key, &entry.key, &[]);
            let mut lease_ms = LEASE_MS_DEFAULT;
            let mut changes = Vec::new();
            let what = format!("resource `{}`", shown(&entry.key));
            for field in read::fields(&mut self.report, &entry.value, &what, &[keys::RESOURCE]).unwrap_or_default() {
                if field.key == "lease" {
                    lease_ms = read::duration(&mut self.report, &field.value, "lease", 1).unwrap_or(LEASE_MS_DEFAULT);
                } else {
                    let texts = read::texts(&mut self.report, &field.value, "on_change").unwrap_or_default();
                    if texts.len() > ON_CHANGE_MAX {
                        self.report.error(field.place, ErrorCode::EpicLimit, format!("`on_change` names more than {ON_CHANGE_MAX} tasks"));
                    }
                    changes.extend(texts.into_iter().take(ON_CHANGE_MAX).map(|(text, item)| (text, item.place)));
                }
            }
            if fits && let Ok(resource) = Resource::parse(&entry.key) {
                if !changes.is_empty() {
                    self.on_change.push((resource.clone(), changes));
                }
                resources.insert(resource, ResourceSpec { lease_ms, on_change: Vec::new() });
            }
        }
        resources
    }

    /// The defaults that can be used. Each is read once here, so that a mistake is reported once and not for every task.
    fn defaults(&mut self, entry: &'d Entry) -> HashMap<&'d str, &'d Entry> {
        let fields = read::fields(&mut self.report, &entry.value, "defaults", &[keys::DEFAULTS]).unwrap_or_default();
        let mut good = HashMap::new();
        for field in fields {
            let before = self.report.count();
            self.default_value(field);
            if field.key == "escalate_after" {
                let message = "`escalate_after` is not used by this release";
                self.report.warn(field.place, ErrorCode::EpicKindUnsupported, message, None);
            }
            if self.report.count() == before {
                good.insert(field.key.as_str(), field);
            }
        }
        good
    }

    fn tasks(&mut self, entry: &'d Entry, defaults: Option<&'d Entry>) -> Vec<Draft> {
        let usable = defaults.map(|defaults| self.defaults(defaults)).unwrap_or_default();
        if entry.value.is_null() {
            self.report.error(entry.place, ErrorCode::EpicLimit, "the epic has no tasks");
            return Vec::new();
        }
        let Some(entries) = read::mapping(&mut self.report, &entry.value, "tasks") else { return Vec::new() };
        if entries.is_empty() {
            self.report.error(entry.value.place, ErrorCode::EpicLimit, "the epic has no tasks");
        }
        if entries.len() > self.options.limits.runs {
            let message = format!("the epic has {} tasks; at most {} are allowed", entries.len(), self.options.limits.runs);
            self.report.error_hint(entry.place, ErrorCode::EpicLimit, message, "split the epic");
            return Vec::new();
        }
        let inherited: usize = usable.values().map(|field| field.value.cost()).sum();
        if inherited.saturating_mul(entries.len()) > INHERITED_BYTES_MAX {
            let message = "`defaults` are too large for so many tasks: each of them gets a copy";
            self.report.error_hint(defaults.map_or(entry.place, |field| field.place), ErrorCode::EpicLimit, message, "split the epic");
            return Vec::new();
        }
        let held: HashMap<&str, &Entry> =
            usable.iter().filter(|(key, _)| keys::HELD_DEFAULTS.contains(key)).map(|(k, v)| (*k, *v)).collect();
        self.task_names = entries.iter().map(|entry| entry.key.as_str()).collect();
        self.task_index = (0u32..).zip(&self.task_names).map(|(position, name)| (*name, position)).collect();
        let mut size = Size::default();
        let drafts: Vec<Draft> = entries.into_iter().map(|entry| self.task(entry, (&usable, &held), &mut size)).collect();
        self.empty_phases(&drafts);
        drafts
    }

    fn empty_phases(&mut self, drafts: &[Draft]) {
        let mut used = vec![false; self.phases.len()];
        for draft in drafts {
            if let Some(slot) = used.get_mut(draft.spec.phase.unwrap_or(0) as usize) {
                *slot = true;
            }
        }
        for (position, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
            let message = format!("phase `{}` has no task", self.phases[position]);
            self.report.wrong(self.phase_places[position], message);
        }
    }

    /// Cycles, and references to outputs of tasks that do not come before.
    fn graph(&mut self, drafts: &[Draft]) {
        let links: Vec<Links> = drafts.iter().map(|draft| draft.links.clone()).collect();
        let graph = Graph::new(&links, self.phases.len());
        for cycle in graph.cycles(CYCLES_MAX) {
            self.cycle(&graph, drafts, &cycle);
        }
        let mut pairs = Vec::new();
        let mut about = Vec::new();
        for (position, draft) in (0u32..).zip(drafts) {
            let reads = draft.outputs_read.iter().map(|read| (read, false));
            for ((reference, place), of_undo) in reads.chain(draft.undo_reads.iter().map(|read| (read, true))) {
                let Reference::Output { task, output } = reference else { continue };
                let Some(source) = self.task_position(*place, task.as_str()) else { continue };
                let own = of_undo && source == position;
                self.output(*place, reference, &drafts[source as usize], (output, own));
                if own {
                    continue;
                }
                pairs.push((position, source));
                about.push((*place, task.to_string(), reference.to_string()));
            }
        }
        for (position, draft) in (0u32..).zip(drafts) {
            for (task, place) in &draft.states_read {
                if let Some(source) = self.task_position(*place, task) {
                    pairs.push((position, source));
                    about.push((*place, task.clone(), format!("tasks.{task}.state")));
                }
            }
        }
        if !graph.is_acyclic() {
            return;
        }
        for (wrong, (place, task, reference)) in graph.not_ancestors(&pairs).into_iter().zip(about) {
            if wrong {
                let message = format!("`{reference}` may not be read here: `{task}` does not come before this task");
                self.report.error_hint(place, ErrorCode::EpicType, message, format!("add `{task}` to `needs`"));
            }
        }
    }

    /// An undo may read its `own` outputs, also of an instance of a matrix.
    fn output(&mut self, place: Place, reference: &Reference, source: &Draft, (output, own): (&str, bool)) {
        if !source.spec.matrix.is_empty() && !own {
            let message = format!("`{reference}` has no single value: `{}` has a matrix", source.spec.name);
            self.report.error_hint(place, ErrorCode::EpicType, message, "let one task without a matrix collect the values");
        } else if let Some(fixed) = source.spec.work.fixed_outputs()
            && !fixed.contains(&output)
        {
            let known = if fixed.is_empty() { "it has none".to_owned() } else { format!("it has {}", fixed.join(" and ")) };
            let message = format!("`{}` is a `{}` and has no output `{output}`", source.spec.name, source.spec.work.kind());
            self.report.error_hint(place, ErrorCode::EpicType, message, known);
        } else if !source.spec.outputs.is_empty() && !source.spec.outputs.contains_key(output) {
            let hint = self.report.suggest(output, source.spec.outputs.keys().map(String::as_str));
            let hint = hint.unwrap_or_else(|| format!("declare it under `outputs` of `{}`", source.spec.name));
            let message = format!("task `{}` declares no output `{output}`", source.spec.name);
            self.report.error_hint(place, ErrorCode::EpicType, message, hint);
        }
    }

    fn cycle(&mut self, graph: &Graph, drafts: &[Draft], cycle: &[u32]) {
        let name = |node: u32| match graph.phase_of(node) {
            Some(phase) => format!("(phase {})", self.phases[phase]),
            None => shown(self.task_names[node as usize]),
        };
        let mut names: Vec<String> = cycle.iter().take(CYCLE_NAMES_MAX).map(|node| name(*node)).collect();
        if cycle.len() > CYCLE_NAMES_MAX {
            names.push(format!("… ({} more)", cycle.len() - CYCLE_NAMES_MAX));
        }
        names.push(name(cycle[0]));
        let place = cycle.iter().find_map(|node| drafts.get(*node as usize)).map_or(Place::START, |draft| draft.place);
        let message = format!("tasks wait for each other in a circle: {}", names.join(" -> "));
        self.report.error_hint(place, ErrorCode::EpicCycle, message, "each waits for the next; take one of these needs away");
    }
}
