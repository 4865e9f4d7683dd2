//! The command line as a whole: what parses, what does not, and how errors look.

use amphi_protocol::api::{ApiError, ErrorCode, Problem};
use clap::{CommandFactory, Parser};

use super::Cli;
use super::failure::Failure;
use super::screen::{Cell, Paint, Style, duration_text, state_mark, table, visible};

fn parses(line: &str) -> bool {
    Cli::try_parse_from(line.split(' ')).is_ok()
}

#[test]
fn the_command_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_this_release_parses() {
    for line in [
        "amphi up",
        "amphi demo --chaos --keep",
        "amphi up --nodes 3 --config f --data d --nats nats://h:1 --ready-file f --capacity 9 --label a=b --node-prefix p --no-manager --no-restart",
        "amphi run a.epic.yaml -i k=v -i x=y --id KEY --wait --timeout 10m",
        "amphi run - --detach --json",
        "amphi run a.yaml --dry-run",
        "amphi epic validate a.yaml --strict",
        "amphi epic plan a.yaml --json",
        "amphi epic ls --all",
        "amphi epic show e-1",
        "amphi epic watch e-1 --timeout 5s",
        "amphi epic events e-1",
        "amphi epic verify e-1",
        "amphi epic verify",
        "amphi epic verify --journal j.ndjson",
        "amphi epic verify --journal j.ndjson e-1",
        "amphi epic export e-1 -o j.ndjson",
        "amphi epic cancel e-1",
        "amphi epic cancel --undo e-1",
        "amphi epic pause e-1",
        "amphi epic resume e-1",
        "amphi epic retry e-1",
        "amphi epic retry --from unit[2] e-1",
        "amphi progress",
        "amphi progress 40 --message half",
        "amphi task ls e-1 --state running",
        "amphi task show e-1/unit[2]",
        "amphi task logs -f e-1/unit",
        "amphi task logs e-1/unit --run 2 --attempt 1",
        "amphi task retry e-1/unit",
        "amphi task cancel e-1/unit",
        "amphi task skip e-1/unit",
        "amphi task assign e-1/unit node-1-Build-1",
        "amphi why e-1/unit",
        "amphi tree --watch --all",
        "amphi agent ls",
        "amphi agent show node-1-BuildMaster-1",
        "amphi agent restart node-1-BuildMaster-1",
        "amphi role ls",
        "amphi role show BuildMaster",
        "amphi node ls",
        "amphi node show node-1",
        "amphi lock ls",
        "amphi queue ls --limit 10",
        "amphi incident ls",
        "amphi incident show i-1",
        "amphi incident resolve i-1 --as not_started",
        "amphi events --follow",
        "amphi doctor --local",
        "amphi schema print event",
        "amphi version --nats nats://127.0.0.1:4222",
    ] {
        assert!(parses(line), "{line}: {}", Cli::try_parse_from(line.split(' ')).expect_err("an error"));
    }
}

#[test]
fn what_this_release_cannot_do_is_no_command() {
    for line in [
        "amphi",
        "amphi demo --nodes 3",
        "amphi up --nodes 0",
        "amphi up --label a",
        "amphi epic pause",
        "amphi epic resume ../x",
        "amphi epic retry --from",
        "amphi epic cancel e-1 --undo=maybe",
        "amphi task skip e-1",
        "amphi task assign e-1/unit",
        "amphi task assign e-1/unit not_an.agent",
        "amphi gate ls",
        "amphi ui",
        "amphi top --once --watch",
        "amphi epic ls --state happy",
        "amphi epic show ../x",
        "amphi task show e-1",
        "amphi progress 101",
        "amphi run a.yaml --wait --detach",
        "amphi incident resolve i-1",
        "amphi incident resolve i-1 --as maybe",
        "amphi queue ls --limit 0",
        "amphi epic sh e-1",
    ] {
        assert!(!parses(line), "{line} must be refused");
    }
}

fn a_problem() -> Failure {
    let mut error = ApiError::new(ErrorCode::EpicUnknownTask, "a.epic.yaml has 1 problem");
    error.problems = vec![Problem {
        file: Some("a.epic.yaml".into()),
        line: 3,
        column: 12,
        code: ErrorCode::EpicUnknownTask,
        message: "no task named `apply_migratoin`".into(),
        hint: Some("did you mean `apply_migration`?".into()),
    }];
    let text = "version: 1\ntasks:\n    needs: [apply_migratoin]\n";
    Failure::from(error).with_sources([("a.epic.yaml".to_owned(), text.to_owned())].into())
}

#[test]
fn a_problem_shows_the_line_it_is_about() {
    let text = a_problem().as_text(Style::PLAIN).expect("text");
    assert_eq!(
        text,
        "error[epic.unknown_task]: a.epic.yaml has 1 problem\n\
         epic.unknown_task\n  \
           --> a.epic.yaml:3:12\n   \
             |\n \
           3 |     needs: [apply_migratoin]\n   \
             |            ^ no task named `apply_migratoin`\n   \
             = help: did you mean `apply_migration`?\n"
    );
}

#[test]
fn an_error_is_one_json_object_and_has_its_exit_code() {
    let failure = a_problem();
    let json: serde_json::Value = serde_json::from_str(&failure.as_json().expect("text")).expect("JSON");
    assert_eq!(json["error"]["code"], "epic.unknown_task");
    assert_eq!(json["error"]["problems"][0]["line"], 3);
    assert_eq!(failure.exit_code(), 2);
}

#[test]
fn a_place_outside_the_file_is_no_panic() {
    let mut error = ApiError::new(ErrorCode::EpicSyntax, "x");
    for (line, column) in [(0, 0), (99, 1), (1, 5000), (u32::MAX, u32::MAX)] {
        error.problems.push(Problem { file: Some("a".into()), line, column, code: ErrorCode::EpicSyntax, message: "m".into(), hint: None });
    }
    assert!(Failure::from(error).with_sources([("a".to_owned(), "é".repeat(6000))].into()).as_text(Style::PLAIN).is_some());
}

#[test]
fn tables_are_aligned_and_cut_nothing() {
    let rows = [vec![Cell::new("é"), Cell::new("x")], vec![Cell::painted("long one", Paint::Bad), Cell::new("a\tb\u{7}")]];
    assert_eq!(table(&["A", "B"], &rows, Style::PLAIN), "A         B\né         x\nlong one  a b\\u{7}\n");
}

#[test]
fn every_state_has_a_glyph_and_durations_are_short() {
    for state in [
        "blocked",
        "waiting",
        "ready",
        "assigned",
        "running",
        "retrying",
        "succeeded",
        "failed",
        "cancelled",
        "skipped",
        "unknown",
        "undone",
    ] {
        assert_ne!(state_mark(state).0, "•", "{state}");
    }
    assert_eq!(duration_text(3_250), "3.2s");
    assert_eq!(duration_text(252_000), "4m12s");
    assert_eq!(duration_text(90_000_000), "1d01h");
    assert_eq!(visible("a\u{1b}[31mb"), "a\\u{1b}[31mb");
}
