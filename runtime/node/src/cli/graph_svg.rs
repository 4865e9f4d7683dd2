//! The graph of an epic as SVG: layers from left to right, phases as lanes from top to bottom, the critical path thick.
//!
//! Colours only repeat what glyphs and words say. All text is escaped. The picture is bounded: large layers are folded into one box,
//! very many layers and lanes are cut, and the picture says what is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::graph::{Drawing, Layer};
use super::screen::visible;

/// Boxes in one phase and layer; the last one stands for the rest.
const LAYER_MAX: usize = 12;
/// Layers and lanes that are drawn.
const COLUMNS_MAX: u32 = 150;
const LANES_MAX: usize = 100;
/// Lines between boxes that are drawn.
const EDGES_MAX: usize = 4000;
/// Characters of the two lines in a box.
const NAME_CHARS: usize = 24;
const WORDS_CHARS: usize = 32;

const BOX: (u32, u32) = (200, 44);
const GAP: (u32, u32) = (64, 12);
const LANE_PAD: u32 = 18;
const LEFT: u32 = 130;
const TOP: u32 = 64;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1b1f24}.h{font-size:16px;font-weight:600}.s{font-size:11px;fill:#57606a}\
.lane{fill:#f6f8fa;stroke:#d0d7de}.b{fill:#fff;stroke:#8c959f}.good{fill:#dafbe1}.bad{fill:#ffebe9}.busy{fill:#ddf4ff}.warn{fill:#fff8c5}\
.dim{fill:#f6f8fa}.fold{stroke-dasharray:4 3}.e{fill:none;stroke:#8c959f}.bar{stroke-width:4}.c{stroke:#bc4c00;stroke-width:3}\
.x{stroke-dasharray:6 4}";

/// A place in the picture: a task, or the folded rest of a layer.
struct Spot {
    x: u32,
    y: u32,
    tasks: Vec<usize>,
    folded: bool,
}

struct Lane {
    phase: Option<u32>,
    y: u32,
    height: u32,
}

struct Layout {
    spots: Vec<Spot>,
    lanes: Vec<Lane>,
    /// The spot of each task that is drawn.
    spot_of: BTreeMap<usize, usize>,
    /// x of the bar behind a phase.
    bars: BTreeMap<u32, u32>,
    width: u32,
    height: u32,
    left_out: usize,
}

/// The picture as one SVG document.
pub fn svg(drawing: &Drawing) -> String {
    let layout = layout(drawing);
    let (edges, edges_left_out) = edges(drawing, &layout);
    let mut notes = Vec::new();
    if layout.left_out > 0 {
        notes.push(format!("{} tasks further right or below are left out", layout.left_out));
    }
    if edges_left_out > 0 {
        notes.push(format!("{edges_left_out} lines are left out"));
    }
    let title = escape(&drawing.title());
    let (width, height) = (layout.width, layout.height);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text class=\"h\" x=\"16\" y=\"28\">{title}</text>\n<text class=\"s\" x=\"16\" y=\"48\">thick: critical path, dashed where it waited for a lock or an agent{}</text>\n",
        notes.iter().map(|note| format!(" · {}", escape(note))).collect::<String>()
    );
    for lane in &layout.lanes {
        let _ = writeln!(
            out,
            "<rect class=\"lane\" x=\"8\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"6\"/>",
            lane.y,
            width.saturating_sub(16),
            lane.height
        );
        if let Some(phase) = lane.phase {
            let name = drawing.phase(phase);
            let _ = writeln!(
                out,
                "<g><title>{}</title><text x=\"20\" y=\"{}\">{}</text></g>",
                escape(name),
                lane.y + 24,
                escape(&cut(name, 14))
            );
        }
    }
    out.push_str(&edges);
    for spot in &layout.spots {
        draw_box(&mut out, drawing, spot);
    }
    out.push_str("</svg>\n");
    out
}

fn layout(drawing: &Drawing) -> Layout {
    let layers = drawing.by_layer(LAYER_MAX - 1);
    let mut heights: BTreeMap<Option<u32>, u32> = BTreeMap::new();
    let rows = |layer: &Layer| layer.shown.len() as u32 + u32::from(!layer.folded.is_empty());
    for layer in layers.iter().filter(|layer| layer.layer < COLUMNS_MAX) {
        let height = heights.entry(layer.phase).or_default();
        *height = (*height).max(rows(layer));
    }
    let mut layout = Layout {
        spots: Vec::new(),
        lanes: Vec::new(),
        spot_of: BTreeMap::new(),
        bars: BTreeMap::new(),
        width: 480,
        height: TOP,
        left_out: 0,
    };
    let mut lane_y = BTreeMap::new();
    for (phase, rows) in heights.into_iter().take(LANES_MAX) {
        let height = rows * (BOX.1 + GAP.1) - GAP.1 + 2 * LANE_PAD;
        lane_y.insert(phase, layout.height);
        layout.lanes.push(Lane { phase, y: layout.height, height });
        layout.height += height + 8;
    }
    layout.height += 8;
    for layer in layers {
        let column = layer.layer;
        let Some(top) = lane_y.get(&layer.phase).filter(|_| column < COLUMNS_MAX) else {
            layout.left_out += layer.shown.len() + layer.folded.len();
            continue;
        };
        let x = LEFT + column * (BOX.0 + GAP.0);
        layout.width = layout.width.max(x + BOX.0 + GAP.0);
        let folded = Some(layer.folded).filter(|folded| !folded.is_empty());
        let all = layer.shown.into_iter().map(|task| (vec![task], false)).chain(folded.map(|tasks| (tasks, true)));
        for (row, (tasks, folded)) in (0u32..).zip(all) {
            let spot = Spot { x, y: top + LANE_PAD + row * (BOX.1 + GAP.1), tasks, folded };
            layout.spot_of.extend(spot.tasks.iter().map(|task| (*task, layout.spots.len())));
            layout.spots.push(spot);
        }
        if let Some(phase) = layer.phase {
            let bar = layout.bars.entry(phase).or_default();
            *bar = (*bar).max(x + BOX.0 + GAP.0 / 2);
        }
    }
    layout
}

/// Lines between boxes, and how many are left out. Waiting for a phase goes through one bar behind it, never from each to each.
fn edges(drawing: &Drawing, layout: &Layout) -> (String, usize) {
    let tasks = &drawing.graph.tasks;
    let steps: BTreeSet<(usize, usize)> = drawing.critical.windows(2).map(|pair| (pair[0], pair[1])).collect();
    // From spot to spot, or to and from the bar of a phase; true where the critical path goes along it.
    let mut direct: BTreeMap<(usize, usize), bool> = BTreeMap::new();
    let mut to_bar: BTreeMap<(usize, u32), bool> = BTreeMap::new();
    let mut from_bar: BTreeMap<(u32, usize), bool> = BTreeMap::new();
    let spot = |task: usize| layout.spot_of.get(&task).copied();
    let awaited: BTreeSet<u32> = tasks.iter().filter_map(|task| task.waits_for_phase).collect();
    let has_inner: BTreeSet<u32> =
        tasks.iter().flat_map(|task| task.needs.iter().filter(|need| tasks[**need as usize].phase == task.phase)).copied().collect();
    let mut drawn: BTreeSet<(usize, usize)> = BTreeSet::new();
    for (at, task) in tasks.iter().enumerate() {
        let Some(here) = spot(at) else { continue };
        for need in &task.needs {
            let need = *need as usize;
            if let Some(there) = spot(need).filter(|there| *there != here) {
                *direct.entry((there, here)).or_default() |= steps.contains(&(need, at));
                drawn.insert((need, at));
            }
        }
        if let Some(phase) = task.waits_for_phase.filter(|phase| layout.bars.contains_key(phase)) {
            let step = drawing.critical.windows(2).find(|pair| pair[1] == at && tasks[pair[0]].phase == Some(phase));
            *from_bar.entry((phase, here)).or_default() |= step.is_some();
            if let Some(from) = step.and_then(|pair| spot(pair[0])) {
                to_bar.insert((from, phase), true);
                drawn.insert((step.map_or(at, |pair| pair[0]), at));
            }
        }
        // Only the last tasks of a phase: the others lead to them.
        if let Some(phase) = task.phase.filter(|phase| awaited.contains(phase) && !has_inner.contains(&(at as u32))) {
            to_bar.entry((here, phase)).or_default();
        }
    }
    let mut lines: Vec<(bool, String)> = Vec::new();
    let right = |spot: usize| (layout.spots[spot].x + BOX.0, layout.spots[spot].y + BOX.1 / 2);
    let left = |spot: usize| (layout.spots[spot].x, layout.spots[spot].y + BOX.1 / 2);
    let lane_of = |phase: u32| layout.lanes.iter().find(|lane| lane.phase == Some(phase));
    lines.extend(direct.into_iter().map(|((from, to), critical)| (critical, curve(right(from), left(to), ""))));
    for ((from, phase), critical) in to_bar {
        let (x, y) = right(from);
        lines.push((critical, curve((x, y), (layout.bars[&phase], y), "")));
    }
    for ((phase, to), critical) in from_bar {
        if let Some(lane) = lane_of(phase) {
            lines.push((critical, curve((layout.bars[&phase], lane.y + lane.height - LANE_PAD), left(to), "")));
        }
    }
    // What determined the end without being a need: a lock, or an agent.
    for (from, to) in steps.difference(&drawn) {
        if let (Some(from), Some(to)) = (spot(*from), spot(*to)) {
            let beside = layout.spots[from].x == layout.spots[to].x;
            lines.push((true, if beside { bow(left(from), left(to)) } else { curve(right(from), left(to), " x") }));
        }
    }
    // The critical path is drawn over the rest, and first of all.
    lines.sort_by_key(|(critical, _)| !critical);
    let left_out = lines.len().saturating_sub(EDGES_MAX);
    lines.truncate(EDGES_MAX);
    let mut out = String::new();
    for phase in awaited.iter().filter(|phase| layout.bars.contains_key(phase)) {
        if let Some(lane) = lane_of(*phase) {
            let (x, from, to) = (layout.bars[phase], lane.y + LANE_PAD, lane.y + lane.height - LANE_PAD);
            let _ = writeln!(out, "<path class=\"e bar\" d=\"M{x} {from}V{to}\"/>");
        }
    }
    for (critical, line) in lines.iter().rev() {
        let _ = writeln!(out, "<path class=\"e{}{line}/>", if *critical { " c" } else { "" });
    }
    (out, left_out)
}

/// The rest of a `path` element, from its class on.
fn curve((x, y): (u32, u32), (to_x, to_y): (u32, u32), class: &str) -> String {
    let bend = if to_x > x { (to_x - x) / 2 } else { GAP.0 / 2 };
    format!("{class}\" d=\"M{x} {y}C{} {y} {} {to_y} {to_x} {to_y}\"", x + bend, to_x.saturating_sub(bend))
}

/// The same between two boxes that stand in one column: along their left side, so that no box hides it.
fn bow((x, y): (u32, u32), (_, to_y): (u32, u32)) -> String {
    let out = x - GAP.0 / 2;
    format!(" x\" d=\"M{x} {y}C{out} {y} {out} {to_y} {x} {to_y}\"")
}

fn draw_box(out: &mut String, drawing: &Drawing, spot: &Spot) {
    let critical = spot.tasks.iter().any(|task| drawing.critical.contains(task));
    let (name, words, class) = if spot.folded {
        (format!("{} more tasks", spot.tasks.len()), drawing.folded_text(&spot.tasks), " fold")
    } else {
        let task = spot.tasks[0];
        let (kind, state) = (&drawing.graph.tasks[task].kind, drawing.state_text(task));
        let words = if state.is_empty() { kind.clone() } else { format!("{kind} · {state}") };
        (drawing.label(task), words, drawing.worst_state(task).map_or("", colour))
    };
    let (x, y) = (spot.x, spot.y);
    let _ = writeln!(
        out,
        "<g><title>{}</title><rect class=\"b{class}{}\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"5\"/>\
         <text x=\"{}\" y=\"{}\">{}</text><text class=\"s\" x=\"{}\" y=\"{}\">{}</text></g>",
        escape(&format!("{name}: {words}")),
        if critical { " c" } else { "" },
        BOX.0,
        BOX.1,
        x + 10,
        y + 18,
        escape(&cut(&name, NAME_CHARS)),
        x + 10,
        y + 34,
        escape(&cut(&words, WORDS_CHARS)),
    );
}

fn colour(state: &str) -> &'static str {
    match state {
        "succeeded" => " good",
        "failed" => " bad",
        "running" | "assigned" => " busy",
        "unknown" | "retrying" | "waiting" | "cancelled" => " warn",
        _ => " dim",
    }
}

fn cut(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    text.chars().take(chars - 1).chain(['…']).collect()
}

/// `text` as XML character data or attribute value.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // No XML document may contain these.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
#[path = "graph_svg_tests.rs"]
mod tests;
