//! Tasks: every key of one task, with the epic's defaults behind it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::api::ErrorCode;
use crate::document::check::{Check, Draft, References, Scope};
use crate::document::graph::Links;
use crate::document::matrix::{self, Size};
use crate::document::outputs::parse_output_type;
use crate::document::report::shown;
use crate::document::yaml::{Entry, Kind, Node, Place};
use crate::document::{
    BACKOFF_MS_MAX_DEFAULT, MatrixAxis, OutputType, RetryCause, RetryPolicy, STUCK_AFTER_MS_DEFAULT, TaskSpec, WaitFor, Work, keys, read,
};
use crate::ids::{ID_LENGTH_MAX, RoleName, TaskName};

/// Most tries of one run.
const ATTEMPTS_MAX: u32 = 1000;
/// Most entries of a task's small lists and mappings (tags, skills, outputs, env).
const ENTRIES_MAX: usize = 256;

/// Default by key.
type Defaults<'d, 'm> = &'m HashMap<&'d str, &'d Entry>;

/// The keys of a task and of the defaults behind it.
pub(super) struct Fields<'d, 'm> {
    pub own: HashMap<&'d str, &'d Entry>,
    pub defaults: Defaults<'d, 'm>,
}

impl<'d> Fields<'d, '_> {
    pub fn own(&self, key: &str) -> Option<&'d Node> {
        self.own.get(key).map(|entry| &entry.value)
    }

    pub fn get(&self, key: &str) -> Option<&'d Node> {
        self.own(key).or_else(|| self.defaults.get(key).map(|entry| &entry.value))
    }

    /// `agent` and `skills` are one choice: a task that makes it does not inherit the other half.
    pub fn staffing(&self, key: &str) -> Option<&'d Node> {
        if self.own.contains_key("agent") || self.own.contains_key("skills") { self.own(key) } else { self.get(key) }
    }
}

impl<'d> Check<'d> {
    /// Reads one task. What is wrong is reported, and stands in the draft as if it had been left out.
    pub(super) fn task(&mut self, entry: &'d Entry, (defaults, held): (Defaults<'d, '_>, Defaults<'d, '_>), size: &mut Size) -> Draft {
        let name = self.task_name(entry);
        self.task.clone_from(&entry.key);
        let what = format!("task `{}`", shown(&entry.key));
        let listed = read::fields(&mut self.report, &entry.value, &what, &[keys::KINDS, keys::TASK]).unwrap_or_default();
        let fields = Fields { own: listed.iter().map(|entry| (entry.key.as_str(), *entry)).collect(), defaults };
        let axes =
            fields.get("matrix").and_then(|node| matrix::axes(&mut self.report, node, size, &self.options.limits)).unwrap_or_default();
        let exclude = self.exclude(&fields, &axes);
        size.add(&mut self.report, entry.place, &axes, &exclude, &self.options.limits);
        let mut refs = References::of(&axes);
        let is_mapping = matches!(entry.value.kind, Kind::Map(_));
        let work = if is_mapping { self.work(entry.place, &what, &listed, &mut refs) } else { empty_work() };
        self.later_keys(&fields, &what);
        let fields = self.held_keys(fields, held, &what, &work);
        let phase = fields.own("phase").and_then(|node| self.phase(node));
        let needs = fields.own("needs").and_then(|node| self.needs(node));
        let locks = fields.get("locks").map(|node| self.locks(node, &mut refs)).unwrap_or_default();
        let env = self.env(&fields, &mut refs);
        let (agent, mut skills) = self.staff(&fields);
        let place = fields.own.get("tool").map_or(entry.place, |tool| tool.value.place);
        self.allowed(place, &work, agent.as_ref(), &mut skills);
        let condition = fields.own("if").map(|node| self.condition(node, &mut refs)).unwrap_or_default();
        let References { all, outputs: outputs_read, states: states_read, .. } = refs;
        let mut spec = TaskSpec {
            name,
            phase,
            needs: needs.clone(),
            work,
            agent,
            skills,
            exclude,
            max_parallel: fields.get("max_parallel").and_then(|node| read::integer(&mut self.report, node, "max_parallel", 1..=100_000)),
            fail_fast: fields.get("fail_fast").and_then(|node| read::boolean(&mut self.report, node, "fail_fast")).unwrap_or(false),
            condition,
            locks,
            retry: fields.get("retry").and_then(|node| self.retry(node)).unwrap_or_default(),
            timeout_ms: fields.get("timeout").and_then(|node| read::duration(&mut self.report, node, "timeout", 1)),
            stuck_after_ms: fields
                .get("stuck_after")
                .and_then(|node| read::duration(&mut self.report, node, "stuck_after", 1))
                .unwrap_or(STUCK_AFTER_MS_DEFAULT),
            optional: fields.get("optional").and_then(|node| read::boolean(&mut self.report, node, "optional")).unwrap_or(false),
            outputs: fields.own("outputs").map(|node| self.outputs(node)).unwrap_or_default(),
            env,
            workdir: fields.get("workdir").and_then(|node| self.workdir(node)),
            tags: fields.get("tags").map(|node| self.words(node, "tags")).unwrap_or_default(),
            priority: fields
                .get("priority")
                .and_then(|node| read::integer(&mut self.report, node, "priority", 0..=4))
                .map_or(self.priority, |p| p as u8),
            reference: fields.own("ref").and_then(|node| self.outside_reference(node)),
            references: all.into_iter().collect(),
            matrix: axes,
            undo: None,
        };
        let mut undo_reads = Vec::new();
        if let Some(node) = fields.own("undo")
            && is_mapping
        {
            let (undo, read) = self.undo(node, &fields, &spec);
            undo_reads = read;
            spec.undo = undo.map(Box::new);
        }
        if let Some(node) = fields.own("optional")
            && spec.optional
            && fields.own.contains_key("approve")
        {
            self.report.wrong(node.place, "`approve` cannot be optional");
        }
        Draft { spec, place: entry.place, links: Links { needs, phase }, outputs_read, undo_reads, states_read }
    }

    /// Checks a default by itself, so that a mistake is found even if no task uses it.
    pub(super) fn default_value(&mut self, entry: &Entry) {
        let node = &entry.value;
        match entry.key.as_str() {
            "timeout" | "stuck_after" | "escalate_after" => _ = read::duration(&mut self.report, node, &entry.key, 1),
            "fail_fast" | "optional" => _ = read::boolean(&mut self.report, node, &entry.key),
            "max_parallel" => _ = read::integer(&mut self.report, node, "max_parallel", 1..=100_000),
            "priority" => _ = read::integer(&mut self.report, node, "priority", 0..=4),
            "retry" => _ = self.retry(node),
            "workdir" => _ = self.workdir(node),
            "tags" | "skills" | "tools" => _ = self.words(node, &entry.key),
            "agent" => _ = self.role(node),
            "model" => _ = read::text(&mut self.report, node, "model"),
            "budget" => self.budget(node),
            // Their texts depend on the task.
            _ => _ = read::mapping(&mut self.report, node, &entry.key),
        }
    }

    fn task_name(&mut self, entry: &Entry) -> TaskName {
        match TaskName::parse(&entry.key) {
            Ok(name) => name,
            Err(error) => {
                let code = if entry.key.len() > ID_LENGTH_MAX { ErrorCode::EpicLimit } else { ErrorCode::EpicType };
                self.report.error(entry.place, code, error.to_string());
                TaskName::parse("invalid").expect("it is a task id")
            }
        }
    }

    fn exclude(&mut self, fields: &Fields<'_, '_>, axes: &[MatrixAxis]) -> Vec<BTreeMap<String, String>> {
        let Some(node) = fields.own("exclude") else { return Vec::new() };
        if fields.get("matrix").is_none() {
            self.report.wrong(node.place, "`exclude` needs a `matrix`");
            return Vec::new();
        }
        if axes.is_empty() {
            return Vec::new();
        }
        matrix::excludes(&mut self.report, node, axes).unwrap_or_default()
    }

    /// What the Manager itself holds has no agent, no process and no locks: such keys are refused at the task and not inherited.
    fn held_keys<'m>(&mut self, mut fields: Fields<'d, 'm>, held: Defaults<'d, 'm>, what: &str, work: &Work) -> Fields<'d, 'm> {
        let is_duration = matches!(work, Work::Wait(WaitFor::Duration { .. }));
        // By its key: one whose sub-epic is wrong has no work yet, and all that is wrong is told at once.
        let (why, hint) = match ["wait", "epic"].map(|kind| fields.own.contains_key(kind)) {
            [true, _] => ("which only waits", "leave it out; `timeout` bounds the wait for an event"),
            [false, true] => ("which is an epic itself", "say it at the tasks of the sub-epic"),
            [false, false] => return fields,
        };
        for key in keys::OF_AGENTS.iter().copied().chain(is_duration.then_some("timeout")) {
            if let Some(entry) = fields.own.remove(key) {
                self.report.error_hint(entry.place, ErrorCode::EpicType, format!("`{key}` means nothing to {what}, {why}"), hint);
            }
        }
        Fields { own: fields.own, defaults: held }
    }

    /// Keys that mean nothing for this kind, or nothing in this release.
    fn later_keys(&mut self, fields: &Fields<'_, '_>, what: &str) {
        if let Some(node) = fields.own("budget") {
            self.budget(node);
        }
        for key in keys::PROMPT_ONLY {
            if let Some(entry) = fields.own.get(*key)
                && !fields.own.contains_key("prompt")
            {
                self.report.wrong(entry.place, format!("`{key}` belongs to `prompt`, and {what} has none"));
            }
        }
        for key in ["max_parallel", "fail_fast"] {
            if let Some(entry) = fields.own.get(key)
                && fields.get("matrix").is_none()
            {
                self.report.warn(entry.place, ErrorCode::EpicType, format!("`{key}` means nothing without a `matrix`"), None);
            }
        }
    }

    fn phase(&mut self, node: &Node) -> Option<u32> {
        let text = read::text(&mut self.report, node, "phase")?;
        let found = self.phase_index.get(text).copied();
        if found.is_none() {
            let hint = self.report.suggest(text, self.phases.iter().map(|phase| phase.as_str()));
            let hint = hint.unwrap_or_else(|| "list it under `phases`".to_owned());
            self.report.error_hint(node.place, ErrorCode::EpicType, format!("there is no phase `{}`", shown(text)), hint);
        }
        found
    }

    /// The position of a task that is named at `place`.
    pub(super) fn task_position(&mut self, place: Place, name: &str) -> Option<u32> {
        let found = self.task_index.get(name).copied();
        if found.is_none() {
            let message = format!("there is no task `{}`", shown(name));
            match self.report.suggest(name, self.task_names.iter().copied()) {
                Some(hint) => self.report.error_hint(place, ErrorCode::EpicUnknownTask, message, hint),
                None => self.report.error(place, ErrorCode::EpicUnknownTask, message),
            }
        }
        found
    }

    fn needs(&mut self, node: &Node) -> Option<Vec<u32>> {
        let mut needs = Vec::new();
        let mut seen = HashSet::new();
        for (text, item) in read::texts(&mut self.report, node, "needs")? {
            let Some(position) = self.task_position(item.place, text) else { continue };
            if seen.insert(position) {
                needs.push(position);
            } else {
                self.report.wrong(item.place, format!("`needs` names `{}` twice", shown(text)));
            }
        }
        Some(needs)
    }

    pub(super) fn retry(&mut self, node: &Node) -> Option<RetryPolicy> {
        if !matches!(node.kind, Kind::Map(_)) {
            let again = read::integer(&mut self.report, node, "retry", 0..=ATTEMPTS_MAX - 1)?;
            return Some(RetryPolicy { attempts: again + 1, backoff_ms: 0, max_ms: BACKOFF_MS_MAX_DEFAULT, on: RetryCause::ALL.to_vec() });
        }
        let before = self.report.count();
        let mut policy = RetryPolicy { on: RetryCause::ALL.to_vec(), ..RetryPolicy::default() };
        let mut max = None;
        for field in read::fields(&mut self.report, node, "retry", &[keys::RETRY])? {
            let value = &field.value;
            match field.key.as_str() {
                "attempts" => policy.attempts = read::integer(&mut self.report, value, "attempts", 1..=ATTEMPTS_MAX).unwrap_or(1),
                "backoff" => policy.backoff_ms = read::duration(&mut self.report, value, "backoff", 0).unwrap_or(0),
                "max" => max = read::duration(&mut self.report, value, "max", 0),
                _ => policy.on = self.causes(value),
            }
        }
        policy.max_ms = max.unwrap_or(BACKOFF_MS_MAX_DEFAULT.max(policy.backoff_ms));
        if policy.max_ms < policy.backoff_ms {
            self.report.wrong(node.place, "`max` is shorter than `backoff`");
        }
        (self.report.count() == before).then_some(policy)
    }

    fn causes(&mut self, node: &Node) -> Vec<RetryCause> {
        let mut causes = BTreeSet::new();
        let texts = read::texts(&mut self.report, node, "on").unwrap_or_default();
        if texts.is_empty() {
            self.report.wrong(node.place, "`on` names no cause");
        }
        for (text, item) in texts {
            match RetryCause::ALL.iter().find(|cause| cause.as_str() == text) {
                Some(cause) => _ = causes.insert(*cause),
                None => {
                    let hint = RetryCause::ALL.map(RetryCause::as_str).join(", ");
                    let message = format!("`{}` is no cause of a retry", shown(text));
                    self.report.error_hint(item.place, ErrorCode::EpicType, message, format!("known causes: {hint}"));
                }
            }
        }
        causes.into_iter().collect()
    }

    fn outputs(&mut self, node: &Node) -> BTreeMap<String, OutputType> {
        let mut outputs = BTreeMap::new();
        let entries = read::mapping(&mut self.report, node, "outputs").unwrap_or_default();
        self.bounded(node, "outputs", entries.len());
        for entry in entries.into_iter().take(ENTRIES_MAX) {
            if !matrix::is_word(&entry.key) {
                self.report.wrong(entry.place, format!("`{}` is no name of an output", shown(&entry.key)));
                continue;
            }
            let Some(text) = read::text(&mut self.report, &entry.value, "the type of an output") else { continue };
            match parse_output_type(text) {
                Some(kind) => _ = outputs.insert(entry.key.clone(), kind),
                None => {
                    let hint = "known types: string, number, integer, boolean, object, T[], enum(a, b)";
                    let message = format!("`{}` is no output type", shown(text));
                    self.report.error_hint(entry.value.place, ErrorCode::EpicType, message, hint);
                }
            }
        }
        outputs
    }

    fn bounded(&mut self, node: &Node, what: &str, count: usize) {
        if count > ENTRIES_MAX {
            self.report.error(node.place, ErrorCode::EpicLimit, format!("`{what}` has more than {ENTRIES_MAX} entries"));
        }
    }

    /// The environment: a task's own variables over those of the defaults.
    pub(super) fn env(&mut self, fields: &Fields<'d, '_>, refs: &mut References<'_>) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        let layers = [fields.defaults.get("env").map(|entry| &entry.value), fields.own("env")];
        let own: HashSet<&str> = match fields.own("env").map(|node| &node.kind) {
            Some(Kind::Map(entries)) => entries.iter().map(|entry| entry.key.as_str()).collect(),
            _ => HashSet::new(),
        };
        for (layer, node) in layers.into_iter().enumerate().filter_map(|(layer, node)| node.map(|node| (layer, node))) {
            let entries = read::mapping(&mut self.report, node, "env").unwrap_or_default();
            self.bounded(node, "env", entries.len());
            for entry in entries.into_iter().take(ENTRIES_MAX) {
                if layer == 0 && own.contains(entry.key.as_str()) {
                    continue;
                }
                if let Some(value) = self.variable(entry, refs) {
                    env.insert(entry.key.clone(), value);
                }
            }
        }
        env
    }

    fn variable(&mut self, entry: &Entry, refs: &mut References<'_>) -> Option<String> {
        let name = entry.key.as_str();
        let head = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !head || name.len() > 128 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            self.report.wrong(entry.place, format!("`{}` is no name of a variable", shown(name)));
            return None;
        }
        if name.starts_with("AMPHI_") {
            self.report.wrong(entry.place, format!("`{name}` is taken: names that begin with AMPHI_ are set by the system"));
            return None;
        }
        let text = read::scalar_text(&mut self.report, &entry.value, name)?;
        if text.len() > self.options.limits.value_bytes {
            self.report.error(
                entry.value.place,
                ErrorCode::EpicLimit,
                format!("`{name}` is longer than {} bytes", self.options.limits.value_bytes),
            );
            return None;
        }
        self.references(&entry.value, text, Scope::Running, refs);
        Some(text.to_owned())
    }

    pub(super) fn workdir(&mut self, node: &Node) -> Option<String> {
        let text = read::text(&mut self.report, node, "workdir")?;
        let fits = !text.is_empty()
            && text.len() <= 1024
            && !text.starts_with('/')
            && !text.contains("${{")
            && !text.chars().any(char::is_control)
            && text.split('/').all(|segment| segment != "..");
        if !fits {
            let message = format!("`{}` is no folder of the workspace", shown(text));
            self.report.error_hint(node.place, ErrorCode::EpicType, message, "a relative path without `..` and without references");
            return None;
        }
        Some(text.to_owned())
    }

    /// A list of short texts, in the document's order, each once.
    fn words(&mut self, node: &Node, what: &str) -> Vec<String> {
        let texts = read::texts(&mut self.report, node, what).unwrap_or_default();
        self.bounded(node, what, texts.len());
        let mut words: Vec<String> = Vec::new();
        for (text, item) in texts.into_iter().take(ENTRIES_MAX) {
            if text.is_empty() || text.len() > ID_LENGTH_MAX || text.chars().any(char::is_control) {
                self.report.wrong(item.place, format!("an entry of `{what}` must have 1 to 64 printable characters"));
            } else if !words.iter().any(|word| word == text) {
                words.push(text.to_owned());
            }
        }
        words
    }

    pub(super) fn outside_reference(&mut self, node: &Node) -> Option<String> {
        let text = read::text(&mut self.report, node, "ref")?;
        if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
            self.report.wrong(node.place, "`ref` must have 1 to 256 printable characters");
            return None;
        }
        Some(text.to_owned())
    }

    pub(super) fn staff(&mut self, fields: &Fields<'_, '_>) -> (Option<RoleName>, Vec<String>) {
        let agent = fields.staffing("agent").and_then(|node| self.role(node));
        let Some(node) = fields.staffing("skills") else { return (agent, Vec::new()) };
        let mut skills = self.words(node, "skills");
        skills.sort();
        let has_all = |known: &Vec<String>| skills.iter().all(|skill| known.contains(skill));
        let roles = &self.options.catalog.roles;
        let served = match &agent {
            Some(agent) => roles.get(agent).is_none_or(has_all),
            None => roles.values().any(has_all),
        };
        if !served && !skills.is_empty() {
            let message = match &agent {
                Some(agent) => format!("role `{agent}` does not have all of the skills {}", skills.join(", ")),
                None => format!("no role has all of the skills {}", skills.join(", ")),
            };
            self.unknown_name(node.place, ErrorCode::RoleUnknown, message, None);
        }
        (agent, skills)
    }

    fn role(&mut self, node: &Node) -> Option<RoleName> {
        let text = read::text(&mut self.report, node, "agent")?;
        let role = match RoleName::parse(text) {
            Ok(role) => role,
            Err(error) => {
                let code = if text.len() > ID_LENGTH_MAX { ErrorCode::EpicLimit } else { ErrorCode::EpicType };
                self.report.error(node.place, code, error.to_string());
                return None;
            }
        };
        let roles = &self.options.catalog.roles;
        if !roles.contains_key(&role) {
            let hint = self.report.suggest(text, roles.keys().map(|role| role.as_str()));
            self.unknown_name(node.place, ErrorCode::RoleUnknown, format!("there is no role `{role}`"), hint);
        }
        Some(role)
    }
}

fn empty_work() -> crate::document::Work {
    crate::document::Work::Run(crate::document::Script { text: String::new(), variables: BTreeMap::new() })
}
