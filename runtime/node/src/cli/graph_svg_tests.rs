//! Drawings are well formed, bounded, escaped, and always the same.

use amphi_protocol::graph::{GraphTask, GraphView};

use super::super::graph::tests::{EPIC, many, of, with_states};
use super::*;

/// Every element is closed in order, and no text has a bare `<` or `&`.
fn assert_well_formed(svg: &str) {
    let mut open: Vec<String> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        for (at, _) in rest[..start].match_indices('&') {
            let entity = &rest[at..start];
            assert!(["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].iter().any(|known| entity.starts_with(known)), "{entity}");
        }
        let end = start + rest[start..].find('>').expect("an element ends");
        let element = &rest[start + 1..end];
        assert!(!element.contains('<') && element.matches('"').count().is_multiple_of(2), "{element}");
        if let Some(name) = element.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
        } else if !element.ends_with('/') {
            open.push(element.split_whitespace().next().unwrap_or_default().to_owned());
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_drawing_shows_lanes_counts_states_and_the_critical_path() {
    let drawn = svg(&with_states(EPIC));
    assert_well_formed(&drawn);
    assert_eq!(drawn.matches("class=\"lane\"").count(), 2);
    assert!(drawn.contains(">b x4<") && drawn.contains("✗ 1 failed, ▶ 1 running"), "{drawn}");
    assert_eq!(drawn.matches("<rect class=\"b").count(), 4);
    // b, c and d; to the bar, from it, and from c to d.
    assert_eq!(drawn.matches(" c\" x=").count(), 3);
    assert_eq!(drawn.matches("class=\"e c\"").count(), 3);
    assert_eq!(drawn, svg(&with_states(EPIC)));
}

#[test]
fn text_is_escaped() {
    let task = GraphTask { task: "<script>alert('&\"')</script>\u{1b}[2J".to_owned(), runs: 1, phase: Some(0), ..GraphTask::default() };
    let graph = GraphView { name: "a<b>&".to_owned(), phases: vec!["</text>".to_owned()], tasks: vec![task] };
    let drawn = svg(&Drawing::new::<&str>(graph, &[]));
    assert_well_formed(&drawn);
    assert!(!drawn.contains("<script") && !drawn.contains('\u{1b}') && drawn.contains("a&lt;b&gt;&amp;"), "{drawn}");
}

#[test]
fn what_was_waited_for_without_a_need_is_a_dashed_line() {
    let mut drawing = of(EPIC);
    drawing.critical = vec![0, 1];
    assert_eq!(svg(&drawing).matches("class=\"e c x\"").count(), 1);
}

#[test]
fn ten_thousand_tasks_make_a_bounded_picture_that_says_what_is_missing() {
    for (before, most) in [(10_000, 20_000), (100, 1_000_000), (1, 300_000)] {
        let drawn = svg(&many(10_000, before));
        assert_well_formed(&drawn);
        assert!(drawn.len() < most, "{before}: {}", drawn.len());
        assert!(drawn.contains("more tasks") || drawn.contains("tasks further right or below are left out"), "{before}");
    }
    assert_well_formed(&svg(&Drawing::default()));
}
