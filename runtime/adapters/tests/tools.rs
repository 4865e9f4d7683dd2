//! What built-in tools do and refuse.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_adapters::tools::{Engines, ToolEngine, check_arguments, tool_names};
use amphi_ports::{Engine, JobNews};
use amphi_protocol::document::{OutputType, Work, Workspace};
use amphi_protocol::journal::{AttemptEnd, Outcome};
use amphi_protocol::node::Job;
use serde_json::{Value, json};
use support::{Bench, PATIENCE, job, order, shell};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

fn tool(name: &str, with: Value) -> Job {
    job(Work::Tool { tool: name.to_owned(), with })
}

async fn run(task: Job) -> AttemptEnd {
    let folder = tempfile::tempdir().unwrap();
    let secrets = BTreeMap::from([("KEY".to_owned(), "hush-hush".to_owned())]);
    let engine = ToolEngine::new(folder.path().to_owned(), &secrets);
    let (news, _heard) = mpsc::unbounded_channel();
    let end = tokio::time::timeout(PATIENCE, engine.run(order(0, task), news, CancellationToken::new())).await.unwrap();
    let attempts = folder.path().join("attempts");
    assert!(!attempts.exists() || std::fs::read_dir(attempts).unwrap().next().is_none(), "private folders go away");
    end
}

#[test]
fn the_registry_names_every_tool_and_the_fault_tools_only_on_request() {
    let names: Vec<String> = tool_names(false).into_iter().collect();
    let all = [
        "backup.restore",
        "backup.snapshot",
        "backup.verify",
        "fail",
        "file.write",
        "git.clone",
        "git.commit",
        "git.tag",
        "http.check",
        "http.post",
        "http.wait",
        "message.send",
        "noop",
        "prom.assert",
        "sleep",
    ];
    assert_eq!(names, all);
    assert!(tool_names(true).contains("panic") && tool_names(true).contains("hang"));
}

#[test]
fn every_file_of_a_tool_is_in_the_registry() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tools");
    let files = std::fs::read_dir(sources).unwrap().flatten().map(|entry| std::fs::read_to_string(entry.path()).unwrap());
    assert_eq!(files.filter(|text| text.contains("impl Tool for ")).count(), tool_names(false).len());
}

#[test]
fn arguments_are_checked_with_words_that_help() {
    for (name, with) in [
        ("noop", json!(null)),
        ("noop", json!({})),
        ("sleep", json!({"ms": 5})),
        ("sleep", json!({"ms": "5"})),
        ("sleep", json!({"ms": "${{ inputs.ms }}"})),
        ("fail", json!({})),
        ("http.check", json!({"url": "http://x", "status": 204, "timeout": "5s", "retries": 3})),
        ("file.write", json!({"path": "a", "text": "b"})),
        ("panic", json!(null)),
    ] {
        assert_eq!(check_arguments(name, &with), Ok(()), "{name} {with}");
    }
    for (name, with, error) in [
        ("nope", json!({}), "there is no tool `nope`"),
        ("noop", json!({"x": 1}), "noop: no argument `x`: it takes none"),
        ("noop", json!([]), "noop: `with` must be a map"),
        ("sleep", json!({}), "sleep: the argument `ms` is missing"),
        ("sleep", json!({"ms": -1}), "sleep: the argument `ms` must be a whole number from 0 to 604800000"),
        ("sleep", json!({"ms": 1.5}), "sleep: the argument `ms` must be a whole number from 0 to 604800000"),
        ("sleep", json!({"ms": {}}), "sleep: the argument `ms` must be a plain value"),
        (
            "http.check",
            json!({"url": "u", "timeout": 5}),
            "http.check: the argument `timeout` must be a duration such as 500ms, 10s or 1m, at most 300s",
        ),
        ("file.write", json!({"path": "a", "txt": "b"}), "file.write: no argument `txt`: it takes path, text"),
    ] {
        assert_eq!(check_arguments(name, &with), Err(error.to_owned()));
    }
}

#[tokio::test]
async fn noop_sleep_and_fail_do_what_they_say() {
    assert_eq!(run(tool("noop", json!(null))).await.outcome, Outcome::Succeeded);
    assert_eq!(run(tool("sleep", json!({"ms": 1}))).await.outcome, Outcome::Succeeded);
    let end = run(tool("fail", json!({"message": "as wished: ${{ inputs.why }} hush-hush"}))).await;
    assert_eq!((end.outcome, end.error.unwrap().as_str()), (Outcome::Exit, "`inputs.why` has no value"));
    let mut task = tool("fail", json!({"message": "as wished: ${{ inputs.why }} hush-hush"}));
    task.values.insert("inputs.why".to_owned(), "${{ inputs.why }}".to_owned());
    assert_eq!(run(task).await.error.unwrap(), "as wished: ${{ inputs.why }} ***");
    assert_eq!(run(tool("sleep", json!({"ms": "soon"}))).await.outcome, Outcome::Exit);
    assert_eq!(run(tool("gone", json!({}))).await.outcome, Outcome::Exit);
}

#[tokio::test]
async fn a_cancelled_tool_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let engine = ToolEngine::new(folder.path().to_owned(), &BTreeMap::new());
    let (news, mut heard) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let end = tokio::spawn(engine.run(order(0, tool("sleep", json!({"ms": 600_000}))), news, cancel.clone()));
    assert_eq!(heard.recv().await, Some(JobNews::Started { pid: None }));
    assert_eq!(heard.recv().await, Some(JobNews::Active), "a sleep is not stuck");
    cancel.cancel();
    assert_eq!(tokio::time::timeout(PATIENCE, end).await.unwrap().unwrap().outcome, Outcome::Cancelled);
}

/// Answers each connection with the next status, the last one for ever.
async fn server(statuses: &'static [u16]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0u8; 1024];
            let _ = stream.read(&mut request).await;
            let status = statuses[number.min(statuses.len() - 1)];
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nlocation: http://127.0.0.1:1/\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}/health")
}

#[tokio::test]
async fn http_check_wants_its_status_and_tries_again() {
    let url = server(&[503, 204]).await;
    let mut task = tool("http.check", json!({"url": url, "status": 204, "retries": 2}));
    task.outputs.insert("status".to_owned(), OutputType::Integer);
    let end = run(task).await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!(end.outputs["status"], json!(204));
    let url = server(&[500]).await;
    let end = run(tool("http.check", json!({"url": url}))).await;
    assert_eq!(end.outcome, Outcome::Exit);
    assert!(end.error.unwrap().ends_with("answered 500, expected 200"));
    let url = server(&[302]).await;
    assert_eq!(run(tool("http.check", json!({"url": url, "status": 302}))).await.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn http_check_fails_where_nobody_answers_and_where_there_is_no_http() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    assert_eq!(run(tool("http.check", json!({"url": url, "timeout": "50ms"}))).await.outcome, Outcome::Exit);
    for url in ["http://127.0.0.1:1/", "file:///etc/passwd", "no url", "ftp://127.0.0.1/"] {
        let end = run(tool("http.check", json!({"url": url, "timeout": "5s"}))).await;
        assert_eq!(end.outcome, Outcome::Exit, "{url}");
        assert!(end.error.is_some());
    }
}

#[tokio::test]
async fn file_write_writes_inside_the_workspace_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, inside.join("way_out")).unwrap();
    std::fs::write(outside.join("secret"), "as it was").unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), inside.join("link")).unwrap();
    let write = |path: &str, text: &str| {
        let mut task = tool("file.write", json!({"path": path, "text": text}));
        task.workspace = Workspace::Path(inside.to_str().unwrap().to_owned());
        run(task)
    };
    let end = write("a/b/c.txt", "first").await;
    assert_eq!((end.outcome, &end.outputs["bytes"]), (Outcome::Succeeded, &json!("5")), "{end:?}");
    assert_eq!(write("a/b/c.txt", "second").await.outcome, Outcome::Succeeded);
    assert_eq!(std::fs::read_to_string(inside.join("a/b/c.txt")).unwrap(), "second");
    assert_eq!(write("link", "replaced, not followed").await.outcome, Outcome::Succeeded);
    for path in ["../escaped", "/etc/amphi-escaped", "way_out/escaped", "a/../../escaped", "", ".", "a/", "a", "a/b/c.txt/d", "nul\0"] {
        let end = write(path, "no").await;
        assert_eq!(end.outcome, Outcome::Exit, "{path}: {end:?}");
    }
    assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "as it was");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(inside.join("a/b")).unwrap().count(), 1, "no temporary file is left");
}

#[tokio::test]
async fn engines_find_the_engine_by_the_kind_of_work() {
    let bench = Bench::new();
    let tools = Arc::new(ToolEngine::new(bench.data_dir(), &BTreeMap::new()));
    let engines = Engines::new(bench.engine.clone(), tools);
    for (number, task, pid) in [(900, shell("exit 0"), true), (901, tool("noop", json!({})), false)] {
        let (news, mut heard) = mpsc::unbounded_channel();
        let end = tokio::time::timeout(PATIENCE, engines.run(order(number, task), news, CancellationToken::new())).await.unwrap();
        assert_eq!(end.outcome, Outcome::Succeeded);
        let first = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await.unwrap();
        assert!(matches!(first, Some(JobNews::Started { pid: told }) if told.is_some() == pid), "{first:?}");
    }
}
