//! The command line against a scripted cluster: exit codes, retries, and following that neither hangs nor leaves anything out.

mod support;

use serde_json::{Value, json};
use support::{Ended, FakeCluster, PATIENCE, error};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

const EPIC: &str = "version: 1\nname: e\ntasks: { a: { run: 'true' } }\n";

fn epic_file(cluster: &FakeCluster) -> String {
    let path = cluster.data.join("a.epic.yaml");
    std::fs::write(&path, EPIC).expect("written");
    path.display().to_string()
}

fn event(seq: u64, kind: &str, task: Option<&str>) -> Value {
    json!({"shard": 0, "seq": seq, "ts": "2026-11-20T23:41:07.113Z", "epic": "e-1", "task": task, "run": null, "attempt": null,
        "agent": null, "node": null, "type": kind, "data": {}})
}

fn history() -> Vec<Value> {
    vec![
        event(3, "epic.submitted", None),
        event(4, "task.ready", Some("a")),
        event(7, "task.started", Some("a")),
        event(8, "task.succeeded", Some("a")),
        event(9, "epic.succeeded", None),
    ]
}

fn status(state: &str, task: &str) -> Value {
    let ended = if state == "running" || state == "waiting" { Value::Null } else { json!("2026-11-20T23:41:09.113Z") };
    json!({"epic": "e-1", "name": "e", "project": "default", "priority": 2, "state": state, "inputs": {}, "submitted_by": "local",
        "submitted_at": "2026-11-20T23:41:07.113Z", "ended_at": ended, "tasks": [{"epic": "e-1", "task": "a", "state": task, "error": null}]})
}

/// `epic.events` from a history.
fn page(history: &[Value], body: &Value) -> Value {
    let after = body["after"].as_u64().unwrap_or(0);
    let events: Vec<&Value> = history.iter().filter(|event| event["seq"].as_u64() > Some(after)).take(2).collect();
    let last = events.last().map_or(Value::Null, |event| event["seq"].clone());
    let next = if last == history.last().map_or(Value::Null, |event| event["seq"].clone()) { Value::Null } else { last };
    json!({"events": events, "next": next})
}

fn seqs(ended: &Ended) -> Vec<u64> {
    ended.lines().iter().filter_map(|line| line["seq"].as_u64()).collect()
}

#[tokio::test]
async fn without_a_cluster_every_command_says_so_and_exits_6() {
    let dir = tempfile::tempdir().expect("a folder");
    for arguments in [&["epic", "ls"][..], &["tree"], &["events"], &["task", "logs", "-f", "e-1/a"]] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_amphi"));
        command.args(arguments).args(["--json", "--data"]).arg(dir.path()).env_remove("AMPHI_NATS_URL");
        let ended = Ended::from(tokio::time::timeout(PATIENCE, command.output()).await.expect("no hang").expect("it runs"));
        assert_eq!((ended.code, ended.lines()[0]["error"]["code"].as_str()), (6, Some("cluster.unreachable")), "{ended:?}");
    }
}

#[tokio::test]
async fn a_submission_is_sent_again_under_the_same_key_until_it_is_answered() {
    let cluster = FakeCluster::start().await;
    cluster.answer("epic.submit", |_, count| match count {
        1 => error("cluster.no_leader", "not yet", true),
        2 => Value::Null,
        _ => json!({"epic": "e-1", "duplicate": true}),
    });
    let ended = cluster.run(&["run", &epic_file(&cluster), "--detach", "--json", "--request-timeout", "1s"]).await;
    assert_eq!((ended.code, ended.lines()), (0, vec![json!({"epic": "e-1", "duplicate": true})]), "{ended:?}");
    let asked = cluster.asked("epic.submit");
    let keys: Vec<&Option<String>> = asked.iter().map(|(_, id)| id).collect();
    // More than three times if an answer took longer than a request may.
    assert!(asked.len() >= 3 && keys[0].is_some() && keys.iter().all(|key| *key == keys[0]), "{asked:?}");
    assert_eq!(asked[0].0["workspace_base"], json!(cluster.data));
    assert_eq!(asked[0].0["document"], json!(EPIC));
    cluster.stop().await;
}

#[tokio::test]
async fn refusals_have_their_exit_codes() {
    let cluster = FakeCluster::start().await;
    for (code, exit) in [("submit.conflict", 5), ("epic.cycle", 2), ("policy.denied", 4), ("epic.limit", 2)] {
        cluster.answer("epic.submit", move |_, _| error(code, "no", false));
        let ended = cluster.run(&["run", &epic_file(&cluster), "--detach", "--json", "--id", "k"]).await;
        assert_eq!((ended.code, ended.lines()[0]["error"]["code"].as_str()), (exit, Some(code)), "{ended:?}");
    }
    cluster.answer("epic.get", |_, _| error("epic.not_found", "there is no epic `e-11`", false));
    cluster.answer("epic.list", |_, _| json!({"epics": [{"epic": "e-1"}], "next": null}));
    let ended = cluster.run(&["epic", "show", "e-11"]).await;
    assert!(ended.code == 3 && ended.err.contains("did you mean `e-1`?"), "{ended:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn following_prints_every_event_once_though_the_stream_has_only_some() {
    let cluster = FakeCluster::start().await;
    let js = cluster.make_events().await;
    // The stream repeats one event and never gets the last two.
    for position in [0, 1, 1, 2] {
        let body = history()[position].to_string();
        js.publish("amphi.evt.e-1._.x", body.into()).await.expect("sent").await.expect("stored");
    }
    cluster.answer("epic.submit", |_, _| json!({"epic": "e-1", "duplicate": false}));
    cluster.answer("epic.get", |_, _| status("succeeded", "succeeded"));
    cluster.answer("epic.events", |body, _| page(&history(), body));
    let ended = cluster.run(&["run", &epic_file(&cluster), "--wait", "--json"]).await;
    assert_eq!((ended.code, seqs(&ended)), (0, vec![3, 4, 7, 8, 9]), "{ended:?}");
    let result = ended.lines().pop().expect("a result");
    assert_eq!(result, json!({"type": "result", "epic": "e-1", "state": "succeeded", "duration_ms": 2000, "tasks": {"succeeded": 1}}));
    cluster.stop().await;
}

#[tokio::test]
async fn following_ends_though_there_is_no_stream_at_all() {
    let cluster = FakeCluster::start().await;
    cluster.answer("epic.get", |_, _| status("failed", "failed"));
    cluster.answer("epic.events", |body, _| page(&history(), body));
    let ended = cluster.run(&["epic", "watch", "e-1", "--json"]).await;
    assert_eq!((ended.code, seqs(&ended)), (1, vec![3, 4, 7, 8, 9]), "{ended:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_stream_that_vanishes_and_is_filled_again_loses_nothing() {
    let cluster = FakeCluster::start().await;
    let js = cluster.make_events().await;
    let send = async |js: &async_nats::jetstream::Context, positions: std::ops::Range<usize>| {
        for body in &history()[positions] {
            js.publish("amphi.evt.e-1._.x", body.to_string().into()).await.expect("sent").await.expect("stored");
        }
    };
    cluster.answer("epic.get", |_, _| status("running", "running"));
    cluster.answer("epic.events", |_, _| json!({"events": [], "next": null}));
    send(&js, 0..2).await;
    let mut child = cluster.amphi(&["epic", "watch", "e-1", "--json"]).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut seen = Vec::new();
    let mut read = async |seen: &mut Vec<u64>, count: usize| {
        while seen.len() < count {
            let line =
                tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("an event in time").expect("readable").expect("a line");
            let line: Value = serde_json::from_str(&line).expect("JSON");
            seen.extend(line["seq"].as_u64());
        }
    };
    read(&mut seen, 2).await;
    js.delete_stream("AMPHI_EVENTS").await.expect("deleted");
    // The new stream counts from 1 again: positions of the old one mean nothing in it.
    let js = cluster.make_events().await;
    send(&js, 0..4).await;
    read(&mut seen, 4).await;
    cluster.answer("epic.get", |_, _| status("succeeded", "succeeded"));
    send(&js, 4..5).await;
    read(&mut seen, 5).await;
    assert_eq!(seen, [3, 4, 7, 8, 9]);
    let code = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").expect("a status");
    assert_eq!(code.code(), Some(0));
    cluster.stop().await;
}

#[tokio::test]
async fn waiting_for_a_person_is_8_and_a_timeout_is_7() {
    let cluster = FakeCluster::start().await;
    cluster.answer("epic.submit", |_, _| json!({"epic": "e-1", "duplicate": false}));
    cluster.answer("epic.events", |_, _| json!({"events": [], "next": null}));
    cluster.answer("epic.get", |_, _| status("waiting", "unknown"));
    let ended = cluster.run(&["run", &epic_file(&cluster), "--wait"]).await;
    assert!(ended.code == 8 && ended.out.contains("amphi incident ls"), "{ended:?}");
    cluster.answer("epic.get", |_, _| status("running", "running"));
    let ended = cluster.run(&["run", &epic_file(&cluster), "--wait", "--json", "--timeout", "3s"]).await;
    assert_eq!((ended.code, ended.lines().pop().map(|line| line["state"].clone())), (7, Some(json!("running"))), "{ended:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn ctrl_c_only_detaches() {
    let cluster = FakeCluster::start().await;
    cluster.make_events().await;
    cluster.answer("epic.get", |_, _| status("running", "running"));
    cluster.answer("epic.events", |_, _| json!({"events": [event(3, "epic.submitted", None)], "next": null}));
    let mut child = cluster.amphi(&["epic", "watch", "e-1", "--json"]).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("readable").expect("the first event");
    let pid = nix::unistd::Pid::from_raw(child.id().expect("it runs") as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sent");
    let code = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").expect("a status").code();
    let mut told = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut told).await.expect("text");
    assert_eq!(code, Some(130));
    assert!(told.contains("e-1 runs on"), "{told}");
    assert!(cluster.asked("epic.cancel").is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_panic() {
    let cluster = FakeCluster::start().await;
    let many: Vec<Value> = (1..2000).map(|seq| event(seq, "task.progress", Some("a"))).collect();
    cluster.answer("epic.events", move |body, _| page(&many, body));
    let mut child = cluster.amphi(&["epic", "events", "e-1", "--json"]).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    lines.next_line().await.expect("readable").expect("a line");
    drop(lines);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").expect("a status");
    let ended = Ended::from(output);
    assert!(ended.code == 0 && ended.err.is_empty(), "{ended:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn lists_are_joined_over_pages_and_a_cut_is_said() {
    let cluster = FakeCluster::start().await;
    cluster.answer("epic.list", |body, _| {
        let after: u64 = body["after"].as_str().map_or(0, |after| after.parse().expect("ours"));
        let limit = body["limit"].as_u64().expect("a limit").min(3);
        let ids: Vec<u64> = (after + 1..=(after + limit).min(7)).collect();
        let last = *ids.last().expect("some");
        let epics: Vec<Value> = ids.iter().map(|id| json!({"epic": format!("e-{id}"), "state": "running"})).collect();
        json!({"epics": epics, "next": if last < 7 { json!(last.to_string()) } else { Value::Null }, "total": 7})
    });
    let all = cluster.run(&["epic", "ls", "--json"]).await;
    assert_eq!((all.lines()[0]["epics"].as_array().map(Vec::len), &all.lines()[0]["next"]), (Some(7), &Value::Null), "{all:?}");
    let some = cluster.run(&["epic", "ls", "--limit", "4"]).await;
    assert!(some.out.lines().count() == 5 && some.err.contains("4 of 7"), "{some:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn export_is_verbatim_and_what_was_exported_can_be_judged() {
    let cluster = FakeCluster::start().await;
    cluster.answer("epic.export", |body, _| match body["after"].as_u64() {
        None => json!({"lines": [{"amphi_export": 1, "shard": 0}], "next": 1}),
        Some(_) => json!({"lines": [{"end": 0, "hash": ""}], "next": null}),
    });
    let ended = cluster.run(&["epic", "export", "e-1"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "{\"amphi_export\":1,\"shard\":0}\n{\"end\":0,\"hash\":\"\"}\n"), "{ended:?}");
    let file = cluster.data.join("j.ndjson").display().to_string();
    assert_eq!(cluster.run(&["epic", "export", "e-1", "-o", &file]).await.code, 0);
    assert_eq!(std::fs::read_to_string(&file).expect("there"), ended.out);
    let violated = json!({"epic": "e-1", "ok": false, "from": 1, "to": 2, "hash": "", "laws": [
        {"law": "S7", "result": "violated", "checked": 1, "evidence": [2]}]});
    cluster.answer("epic.verify", move |_, _| violated.clone());
    let ended = cluster.run(&["epic", "verify", "e-1"]).await;
    assert!(ended.code == 1 && ended.out.contains("S7   ✗ violated"), "{ended:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_report_is_shown_as_the_cluster_gives_it_and_can_be_computed_again_from_events() {
    let cluster = FakeCluster::start().await;
    let file = cluster.data.join("events.ndjson").display().to_string();
    let mut events = vec![event(3, "epic.submitted", None), event(4, "task.ready", Some("a")), event(5, "task.assigned", Some("a"))];
    events.extend([event(7, "task.started", Some("a")), event(8, "task.succeeded", Some("a")), event(9, "epic.succeeded", None)]);
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    std::fs::write(&file, lines.join("\n")).expect("written");
    let offline = cluster.run(&["epic", "report", "--events", &file, "--json"]).await;
    let report = offline.lines().pop().expect("a report");
    assert_eq!((offline.code, &report["state"], &report["tasks"]), (0, &json!("succeeded"), &json!({"succeeded": 1})), "{offline:?}");
    assert!(cluster.asked("epic.report").is_empty());
    let answer = report.clone();
    cluster.answer("epic.report", move |_, _| answer.clone());
    let asked = cluster.run(&["epic", "report", "e-1", "--json"]).await;
    assert_eq!((asked.code, asked.lines()), (0, vec![report]), "{asked:?}");
    let text = cluster.run(&["epic", "report", "e-1"]).await;
    assert!(text.code == 0 && text.out.contains("coordination overhead"), "{text:?}");
    cluster.answer("epic.report", |_, _| error("epic.not_found", "there is no epic `e-11`", false));
    cluster.answer("epic.list", |_, _| json!({"epics": [{"epic": "e-1"}], "next": null}));
    let unknown = cluster.run(&["epic", "report", "e-11"]).await;
    assert!(unknown.code == 3 && unknown.err.contains("did you mean `e-1`?"), "{unknown:?}");
    for wrong in [&["epic", "report"][..], &["epic", "report", "--events", "/nonexistent"], &["epic", "report", "e-2", "--events", &file]] {
        let ended = cluster.run(wrong).await;
        assert_eq!(ended.code, 2, "{ended:?}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn completion_and_configuration_need_no_cluster() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_amphi"));
        command.args(arguments).current_dir(dir.path()).env_clear().env("AMPHI_NATS_URL", "nats://me:geheim@127.0.0.1:1");
        Ended::from(tokio::time::timeout(PATIENCE, command.output()).await.expect("no hang").expect("it runs"))
    };
    std::fs::write(dir.path().join("amphi.yaml"), "version: 1\nhealth: { node_dead: 20s }\n").expect("written");
    let shown = run(&["config", "show", "--origin", "--json"]).await;
    let values = shown.lines().pop().expect("an object")["values"].clone();
    assert_eq!((shown.code, &values["health.node_dead"]["value"]), (0, &json!("20s")), "{shown:?}");
    assert!(values["health.node_dead"]["origin"].as_str().is_some_and(|origin| origin.contains("amphi.yaml:2")), "{shown:?}");
    assert!(!shown.out.contains("geheim") && shown.out.contains("nats://***@127.0.0.1:1"), "{shown:?}");
    std::fs::write(dir.path().join("amphi.yaml"), "version: 1\nhealht: {}\n").expect("written");
    let invalid = run(&["config", "show"]).await;
    assert!(invalid.code == 2 && invalid.err.contains("healht"), "{invalid:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completion", shell]).await;
        assert!(script.code == 0 && script.out.contains("amphi") && script.err.is_empty(), "{script:?}");
    }
    assert_eq!(run(&["completion", "tcsh"]).await.code, 2);
}

#[tokio::test]
async fn a_graph_is_drawn_of_a_file_without_a_cluster_and_of_an_epic_with_its_states() {
    let cluster = FakeCluster::start().await;
    let file = epic_file(&cluster);
    let text = cluster.run(&["epic", "graph", &file]).await;
    assert!(text.code == 0 && text.out.starts_with("e  1 task, 1 run\n  1 ★ a"), "{text:?}");
    let drawn = cluster.run(&["epic", "graph", &file, "--svg"]).await;
    assert!(drawn.code == 0 && drawn.out.starts_with("<svg ") && drawn.out.ends_with("</svg>\n"), "{drawn:?}");
    let target = cluster.data.join("g.svg").display().to_string();
    let written = cluster.run(&["epic", "graph", &file, "--svg", "-o", &target]).await;
    assert_eq!((written.code, written.out.as_str()), (0, ""), "{written:?}");
    assert_eq!(std::fs::read_to_string(&target).expect("there"), drawn.out);

    // What a cluster says is drawn, also if it is no graph.
    let task = |needs: &[u32]| json!({"task": "a", "kind": "run", "phase": 7, "needs": needs, "waits_for_phase": null, "runs": 1});
    let graph = json!({"name": "e", "phases": ["p"], "tasks": [task(&[0, 9])]});
    cluster.answer("epic.report", move |_, _| json!({"graph": graph, "critical_path": [{"task": "a"}, {"task": "z"}]}));
    cluster.answer("epic.get", |_, _| status("failed", "failed"));
    let shown = cluster.run(&["epic", "graph", "e-1"]).await;
    assert!(shown.code == 0 && shown.out.contains("★ a  run  ✗ failed"), "{shown:?}");
    assert_eq!(cluster.asked("epic.report")[0].0, json!({"epic": "e-1", "graph": true}));
    let drawn = cluster.run(&["epic", "graph", "e-1", "--svg", "--json"]).await;
    assert!(drawn.lines()[0]["svg"].as_str().is_some_and(|svg| svg.contains("✗ failed")), "{drawn:?}");

    cluster.answer("epic.report", |_, _| error("epic.not_found", "there is no epic `e-11`", false));
    cluster.answer("epic.list", |_, _| json!({"epics": [{"epic": "e-1"}], "next": null}));
    let unknown = cluster.run(&["epic", "graph", "e-11"]).await;
    assert!(unknown.code == 3 && unknown.err.contains("did you mean `e-1`?"), "{unknown:?}");
    for wrong in [&["epic", "graph"][..], &["epic", "graph", "a b"], &["epic", "graph", "no.yaml"], &["epic", "graph", "e-1", "-o", "x"]] {
        assert_eq!(cluster.run(wrong).await.code, 2, "{wrong:?}");
    }
    cluster.stop().await;
}
