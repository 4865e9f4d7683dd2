//! `amphi epic graph`: the graph of an epic file, or of an epic with the states of its tasks, as text or as a drawing.
//!
//! Tasks stand in their phase and layer (one more than the deepest of those that they wait for), a matrix is one task with a count. A
//! layer with very many tasks is folded and says so. The same epic always looks the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use amphi_protocol::document::plan_summary;
use amphi_protocol::graph::GraphView;
use amphi_protocol::ids::EpicId;
use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::epic::ask_epic;
use super::failure::{Failure, exit};
use super::graph_svg::svg;
use super::screen::{Paint, Screen, Style, counted, items, state_mark, talk, visible};
use super::{Global, epic_file};

/// Tasks of one phase and layer that the text lists; the rest is folded.
const TEXT_LAYER_MAX: usize = 20;
/// Pairs of phase and layer that the text shows.
const TEXT_LAYERS_MAX: usize = 200;
/// Needs of one task that the text names.
const TEXT_NEEDS_MAX: usize = 6;

/// `epic graph`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  amphi epic graph release.epic.yaml                what it will do\n  amphi epic graph EPIC --svg -o release.svg        what it did, to look at in a browser"
)]
pub struct GraphArgs {
    /// An epic file (`-` is standard input), or the id of an epic, which is shown with the states of its tasks
    #[arg(value_name = "FILE|EPIC")]
    of: String,
    /// A value for an input of the epic file
    #[arg(long = "input", short = 'i', value_name = "K=V")]
    inputs: Vec<String>,
    /// Draw it as SVG
    #[arg(long)]
    svg: bool,
    /// Write the drawing to a file instead of standard output
    #[arg(long, short, value_name = "FILE", requires = "svg")]
    output: Option<PathBuf>,
}

/// A graph with everything that is shown about it.
#[derive(Debug, Default)]
pub struct Drawing {
    /// The epic's id, if it is one that was submitted.
    pub epic: Option<String>,
    /// Its state.
    pub state: Option<String>,
    /// Tasks, phases, needs.
    pub graph: GraphView,
    /// Of each task.
    pub layers: Vec<u32>,
    /// For each task how many of its runs are in which state; empty for a file.
    pub states: Vec<BTreeMap<String, u64>>,
    /// The critical path, first to last: of an epic what determined its end, of a file the longest chain.
    pub critical: Vec<usize>,
}

/// Tasks of one phase and layer.
#[derive(Debug, PartialEq, Eq)]
pub struct Layer {
    /// The phase, if there are phases.
    pub phase: Option<u32>,
    /// The layer.
    pub layer: u32,
    /// Tasks that are shown, in the order of the document.
    pub shown: Vec<usize>,
    /// Tasks that are folded.
    pub folded: Vec<usize>,
}

/// Shows a graph.
pub async fn graph(global: &Global, screen: Screen, args: &GraphArgs) -> Result<u8, Failure> {
    let drawing = if is_file(&args.of) {
        of_file(screen, args)?
    } else if args.inputs.is_empty() {
        let id = EpicId::parse(&args.of).map_err(|error| Failure::usage(error.to_string()))?;
        of_epic(&Client::connect(global).await?, &id).await?
    } else {
        return Err(Failure::usage("an epic that was submitted has its inputs").hint("-i is for a file"));
    };
    if !args.svg {
        screen.show(&as_json(&drawing), |_, style| text(&drawing, style))?;
        return Ok(exit::OK);
    }
    let picture = svg(&drawing);
    match &args.output {
        Some(path) => {
            std::fs::write(path, &picture).map_err(|error| Failure::file("write", path, &error))?;
            if screen.json {
                screen.json(&json!({ "file": path.display().to_string(), "bytes": picture.len() }))?;
            } else {
                talk(&format!("{} bytes in {}", picture.len(), path.display()));
            }
        }
        None if screen.json => screen.json(&json!({ "svg": picture }))?,
        None => screen.write(&picture)?,
    }
    Ok(exit::OK)
}

/// No id has a dot or a slash.
fn is_file(of: &str) -> bool {
    of == "-" || of.contains(['.', '/']) || Path::new(of).exists()
}

fn of_file(screen: Screen, args: &GraphArgs) -> Result<Drawing, Failure> {
    let document = epic_file::read(Path::new(&args.of))?;
    let compiled = epic_file::check(&document, &args.inputs, false, Some(super::catalog::local()?))?;
    epic_file::warn(screen, &document, &compiled.warnings);
    let Some(spec) = compiled.spec else { return Err(epic_file::invalid(&document, compiled.problems)) };
    Ok(Drawing::new(GraphView::of(&spec), &plan_summary(&spec).critical_path))
}

async fn of_epic(client: &Client, id: &EpicId) -> Result<Drawing, Failure> {
    let report = ask_epic(client, "epic.report", &json!({ "epic": id, "graph": true })).await?;
    let graph = serde_json::from_value(report["graph"].clone()).map_err(|error| {
        let told = format!("the cluster's graph cannot be read: {error}");
        Failure::new(amphi_protocol::api::ErrorCode::Internal, told)
            .hint("`amphi version` here and there: they may be of different releases")
    })?;
    let epic = client.list("epic.get", "tasks", json!({ "epic": id }), None).await?;
    let path: Vec<&str> = items(&report, "critical_path").iter().filter_map(|step| step["task"].as_str()).collect();
    let mut drawing = Drawing::new(graph, &path);
    drawing.epic = Some(id.to_string());
    drawing.state = epic["state"].as_str().map(str::to_owned);
    let names: BTreeMap<&str, usize> = drawing.graph.tasks.iter().enumerate().map(|(at, task)| (task.task.as_str(), at)).collect();
    let mut states = vec![BTreeMap::new(); names.len()];
    for task in items(&epic, "tasks") {
        let (name, state) = (task["task"].as_str().unwrap_or_default(), task["state"].as_str().unwrap_or_default());
        if let Some(at) = names.get(task_of(name)) {
            *states[*at].entry(state.to_owned()).or_insert(0) += 1;
        }
    }
    drawing.states = states;
    Ok(drawing)
}

/// The task of a run: `t` of `t[i]`.
fn task_of(key: &str) -> &str {
    key.split('[').next().unwrap_or(key)
}

impl Drawing {
    /// A graph without states; `path` names tasks or runs of them.
    pub fn new<S: AsRef<str>>(mut graph: GraphView, path: &[S]) -> Self {
        let count = graph.tasks.len();
        // What a cluster sends is not trusted to be a graph.
        graph.tasks.iter_mut().for_each(|task| task.needs.retain(|need| (*need as usize) < count));
        let names: BTreeMap<&str, usize> = graph.tasks.iter().enumerate().map(|(at, task)| (task.task.as_str(), at)).collect();
        let mut critical: Vec<usize> = path.iter().filter_map(|key| names.get(task_of(key.as_ref())).copied()).collect();
        critical.dedup();
        let layers = graph.layers();
        Self { layers, critical, graph, ..Self::default() }
    }

    /// How many runs are in which state, as glyph and word; empty for a file.
    pub fn state_text(&self, task: usize) -> String {
        let Some(states) = self.states.get(task) else { return String::new() };
        let alone = self.graph.tasks[task].runs == 1;
        let word = |(state, count): (&String, &u64)| {
            let glyph = state_mark(state).0;
            if alone { format!("{glyph} {state}") } else { format!("{glyph} {count} {state}") }
        };
        by_urgency(states).into_iter().map(word).collect::<Vec<_>>().join(", ")
    }

    /// The state that matters most among a task's runs.
    pub fn worst_state(&self, task: usize) -> Option<&str> {
        Some(by_urgency(self.states.get(task)?).first()?.0)
    }

    /// `unit x6`.
    pub fn label(&self, task: usize) -> String {
        let task = &self.graph.tasks[task];
        if task.runs > 1 { format!("{} x{}", task.task, task.runs) } else { task.task.clone() }
    }

    /// The name of a phase.
    pub fn phase(&self, phase: u32) -> &str {
        self.graph.phases.get(phase as usize).map_or("?", String::as_str)
    }

    /// `e-1  8 tasks, 13 runs, 3 phases`.
    pub fn title(&self) -> String {
        let runs: u64 = self.graph.tasks.iter().map(|task| u64::from(task.runs)).sum();
        let phases = match self.graph.phases.len() {
            0 => String::new(),
            phases => format!(", {}", counted(phases as u64, "phase")),
        };
        let name = self.epic.as_deref().unwrap_or(&self.graph.name);
        let state = self.state.as_deref().map_or(String::new(), |state| format!("  {} {state}", state_mark(state).0));
        format!("{name}{state}  {}, {}{phases}", counted(self.graph.tasks.len() as u64, "task"), counted(runs, "run"))
    }

    /// All tasks by phase and layer, at most `most` shown of each: those of the critical path first, then the most urgent.
    pub fn by_layer(&self, most: usize) -> Vec<Layer> {
        let mut cells: BTreeMap<(Option<u32>, u32), Vec<usize>> = BTreeMap::new();
        for (at, task) in self.graph.tasks.iter().enumerate() {
            cells.entry((task.phase, self.layers[at])).or_default().push(at);
        }
        let critical: BTreeSet<usize> = self.critical.iter().copied().collect();
        let layer = |((phase, layer), mut tasks): ((Option<u32>, u32), Vec<usize>)| {
            let mut folded = Vec::new();
            if tasks.len() > most {
                tasks.sort_by_key(|at| (!critical.contains(at), self.worst_state(*at).map_or(usize::MAX, urgency), *at));
                folded = tasks.split_off(most);
                folded.sort_unstable();
                tasks.sort_unstable();
            }
            Layer { phase, layer, shown: tasks, folded }
        };
        cells.into_iter().map(layer).collect()
    }

    /// States of folded tasks, as glyph and word.
    pub fn folded_text(&self, folded: &[usize]) -> String {
        let mut sum: BTreeMap<String, u64> = BTreeMap::new();
        for states in folded.iter().filter_map(|at| self.states.get(*at)) {
            for (state, count) in states {
                *sum.entry(state.clone()).or_default() += count;
            }
        }
        by_urgency(&sum).into_iter().map(|(state, count)| format!("{} {count} {state}", state_mark(state).0)).collect::<Vec<_>>().join(", ")
    }
}

/// States from the one that needs a look most.
const URGENCY: [&str; 13] = [
    "failed",
    "unknown",
    "retrying",
    "waiting",
    "running",
    "assigned",
    "ready",
    "cancelled",
    "blocked",
    "succeeded",
    "skipped",
    "undone",
    "",
];

fn urgency(state: &str) -> usize {
    URGENCY.iter().position(|word| *word == state).unwrap_or(URGENCY.len())
}

fn by_urgency(states: &BTreeMap<String, u64>) -> Vec<(&String, &u64)> {
    let mut states: Vec<_> = states.iter().collect();
    states.sort_by_key(|(state, _)| urgency(state));
    states
}

fn as_json(drawing: &Drawing) -> Value {
    let name = |at: &usize| drawing.graph.tasks[*at].task.as_str();
    let tasks = drawing.graph.tasks.iter().enumerate().map(|(at, task)| {
        let needs: Vec<&str> = task.needs.iter().map(|need| name(&(*need as usize))).collect();
        json!({ "task": task.task, "kind": task.kind, "phase": task.phase.map(|phase| drawing.phase(phase)), "layer": drawing.layers[at],
            "needs": needs, "waits_for_phase": task.waits_for_phase.map(|phase| drawing.phase(phase)), "runs": task.runs,
            "states": drawing.states.get(at).cloned().unwrap_or_default() })
    });
    json!({ "epic": drawing.epic, "name": drawing.graph.name, "state": drawing.state, "phases": drawing.graph.phases,
        "tasks": tasks.collect::<Vec<_>>(), "critical_path": drawing.critical.iter().map(name).collect::<Vec<_>>() })
}

fn text(drawing: &Drawing, style: Style) -> String {
    let mut out = format!("{}\n", style.paint(Paint::Head, &visible(&drawing.title())));
    let layers = drawing.by_layer(TEXT_LAYER_MAX);
    let shown = &layers[..layers.len().min(TEXT_LAYERS_MAX)];
    let tasks = || shown.iter().flat_map(|layer| &layer.shown).copied();
    let labels = tasks().map(|at| drawing.label(at).chars().count()).max().unwrap_or(0);
    let kinds = tasks().map(|at| drawing.graph.tasks[at].kind.len()).max().unwrap_or(0);
    let states = tasks().map(|at| drawing.state_text(at).chars().count()).max().unwrap_or(0);
    let critical: BTreeSet<usize> = drawing.critical.iter().copied().collect();
    let mut phase = None;
    for layer in shown {
        if let Some(now) = layer.phase.filter(|_| layer.phase != phase) {
            out.push_str(&format!("{} {}\n", style.paint(Paint::Dim, "──"), style.paint(Paint::Head, drawing.phase(now))));
        }
        phase = layer.phase;
        for (position, at) in layer.shown.iter().enumerate() {
            let number = if position == 0 { format!("{:>3}", layer.layer + 1) } else { "   ".to_owned() };
            let star = if critical.contains(at) { style.paint(Paint::Warn, "★") } else { " ".to_owned() };
            let state = format!("{:states$}", drawing.state_text(*at));
            let paint = drawing.worst_state(*at).map_or(Paint::Plain, |state| state_mark(state).1);
            let kind = &drawing.graph.tasks[*at].kind;
            let line = format!(
                "{} {star} {:labels$}  {kind:kinds$}  {}  {}",
                style.paint(Paint::Dim, &number),
                drawing.label(*at),
                style.paint(paint, &state),
                needs_text(drawing, *at)
            );
            out.push_str(line.trim_end());
            out.push('\n');
        }
        if !layer.folded.is_empty() {
            let states = drawing.folded_text(&layer.folded);
            let line = format!("      … {} more tasks of this layer  {states}", layer.folded.len());
            out.push_str(&format!("{}\n", style.paint(Paint::Dim, line.trim_end())));
        }
    }
    if layers.len() > shown.len() {
        let left: usize = layers[shown.len()..].iter().map(|layer| layer.shown.len() + layer.folded.len()).sum();
        out.push_str(&format!("… {left} tasks in {} more layers (--json has all)\n", layers.len() - shown.len()));
    }
    out.push_str(&critical_text(drawing, style));
    out
}

fn critical_text(drawing: &Drawing, style: Style) -> String {
    let names: Vec<&str> = drawing.critical.iter().map(|at| drawing.graph.tasks[*at].task.as_str()).collect();
    if names.is_empty() {
        return String::new();
    }
    let left_out = names.len().saturating_sub(TEXT_LAYER_MAX);
    let note = if left_out > 0 { format!("… {left_out} before → ") } else { String::new() };
    format!("\n{} critical path  {note}{}\n", style.paint(Paint::Warn, "★"), names[left_out..].join(" → "))
}

fn needs_text(drawing: &Drawing, at: usize) -> String {
    let task = &drawing.graph.tasks[at];
    let mut needs: Vec<String> = task.waits_for_phase.iter().map(|phase| format!("phase {}", drawing.phase(*phase))).collect();
    let names = task.needs.iter().take(TEXT_NEEDS_MAX).map(|need| drawing.graph.tasks[*need as usize].task.clone());
    needs.extend(names);
    if task.needs.len() > TEXT_NEEDS_MAX {
        needs.push(format!("{} more", task.needs.len() - TEXT_NEEDS_MAX));
    }
    if needs.is_empty() { String::new() } else { format!("← {}", needs.join(", ")) }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
pub mod tests;
