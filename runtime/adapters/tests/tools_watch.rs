//! `http.wait` and `prom.assert` against servers on loopback.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::sync::{Arc, Mutex};

use amphi_adapters::tools::check_arguments;
use amphi_protocol::journal::{AttemptEnd, Outcome};
use serde_json::json;
use support::ToolBench;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that answers with what the number of the request says, and remembers what was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn new(answer: impl Fn(usize) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let memory = Arc::clone(&asked);
        tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0u8; 8192];
                let count = stream.read(&mut request).await.unwrap_or(0);
                let line = String::from_utf8_lossy(&request[..count]).lines().next().unwrap_or_default().to_owned();
                memory.lock().unwrap().push(line);
                let (status, body) = answer(number);
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        Self { url, asked }
    }
}

fn error(end: &AttemptEnd) -> &str {
    assert_eq!(end.outcome, Outcome::Exit, "{end:?}");
    end.error.as_deref().unwrap()
}

fn number(end: &AttemptEnd, name: &str) -> u64 {
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    end.outputs[name].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn http_wait_waits_until_the_status_is_there() {
    let bench = ToolBench::new();
    let server = Server::new(|number| (if number < 3 { 503 } else { 204 }, String::new())).await;
    let end = bench.run("http.wait", json!({"url": server.url, "status": 204, "timeout": "30s", "every": "10ms"})).await;
    assert_eq!((number(&end, "status"), number(&end, "tries")), (204, 4));
    assert!(number(&end, "ms") >= 30);
}

#[tokio::test]
async fn http_wait_waits_for_a_server_that_is_not_there_yet() {
    let bench = ToolBench::new();
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let running = bench.start("http.wait", json!({"url": format!("http://{address}"), "timeout": "30s", "every": "20ms"}));
    let listener = TcpListener::bind(address).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
    assert_eq!(running.end().await.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn http_wait_gives_up_and_says_what_it_saw() {
    let bench = ToolBench::new();
    let server = Server::new(|_| (500, String::new())).await;
    let end = bench.run("http.wait", json!({"url": server.url, "timeout": "100ms", "every": "10ms"})).await;
    assert!(error(&end).contains("did not answer 200 within 100 ms") && error(&end).contains("it last answered 500"), "{end:?}");
    let end = bench.run("http.wait", json!({"url": "http://127.0.0.1:1/", "timeout": "50ms", "every": "10ms"})).await;
    assert!(error(&end).contains("it last did not answer"), "{end:?}");
    // One that takes the request and says nothing does not hold it longer than the timeout.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    assert_eq!(bench.run("http.wait", json!({"url": url, "timeout": "100ms"})).await.outcome, Outcome::Exit);
}

#[test]
fn arguments_that_cannot_be_are_refused_at_submission() {
    for (tool, with, said) in [
        ("http.wait", json!({"url": "no url"}), "is no URL"),
        ("http.wait", json!({"url": "file:///etc/passwd"}), "is no http or https URL"),
        ("http.wait", json!({"url": "http://x", "every": "0s"}), "`every` must be a duration"),
        ("http.wait", json!({"url": "http://x", "retries": 1}), "no argument `retries`"),
        ("prom.assert", json!({"url": "http://x", "expr": " "}), "`expr` is empty"),
        ("prom.assert", json!({"url": "http://x"}), "`expr` is missing"),
        ("prom.assert", json!({"url": "ftp://x", "expr": "up"}), "is no http or https URL"),
    ] {
        let error = check_arguments(tool, &with).unwrap_err();
        assert!(error.contains(said), "{tool} {with}: {error}");
    }
    assert_eq!(check_arguments("http.wait", &json!({"url": "${{ inputs.url }}/health", "timeout": "5m"})), Ok(()));
}

fn vector(values: &[&str]) -> (u16, String) {
    let series: Vec<_> = values.iter().map(|value| json!({"metric": {"job": "api"}, "value": [1.5, value]})).collect();
    (200, json!({"status": "success", "data": {"resultType": "vector", "result": series}}).to_string())
}

fn scalar(value: &str) -> (u16, String) {
    (200, json!({"status": "success", "data": {"resultType": "scalar", "result": [1.5, value]}}).to_string())
}

#[tokio::test]
async fn prom_assert_takes_a_series_or_a_number_for_true() {
    let bench = ToolBench::new();
    let server = Server::new(|_| vector(&["0", "7"])).await;
    let end = bench.run("prom.assert", json!({"url": format!("{}/prom/", server.url), "expr": "rate(errors[1m]) == 0 & \"x\""})).await;
    assert_eq!((number(&end, "series"), number(&end, "samples"), number(&end, "value")), (2, 1, 0));
    let asked = server.asked.lock().unwrap()[0].clone();
    assert_eq!(asked, "GET /prom/api/v1/query?query=rate%28errors%5B1m%5D%29+%3D%3D+0+%26+%22x%22 HTTP/1.1");
    for (value, is_true) in [("1", true), ("-0.5", true), ("+Inf", true), ("0", false), ("NaN", false)] {
        let server = Server::new(move |_| scalar(value)).await;
        let end = bench.run("prom.assert", json!({"url": server.url, "expr": "scalar(x)"})).await;
        assert_eq!(end.outcome == Outcome::Succeeded, is_true, "{value}: {end:?}");
    }
}

#[tokio::test]
async fn prom_assert_must_hold_for_the_whole_time() {
    let bench = ToolBench::new();
    let server = Server::new(|_| vector(&["3"])).await;
    let end = bench.run("prom.assert", json!({"url": server.url, "expr": "up", "hold": "1200ms"})).await;
    assert!(number(&end, "ms") >= 1200 && number(&end, "samples") >= 2, "{end:?}");
    let server = Server::new(|number| if number < 2 { vector(&["3"]) } else { vector(&[]) }).await;
    let end = bench.run("prom.assert", json!({"url": server.url, "expr": "up > 2", "hold": "10m"})).await;
    assert!(error(&end).starts_with("`up > 2` is not true after ") && error(&end).ends_with("(3 samples): it is empty"), "{end:?}");
    let server = Server::new(|_| scalar("0")).await;
    let end = bench.run("prom.assert", json!({"url": server.url, "expr": "scalar(up)"})).await;
    assert!(error(&end).ends_with("it is 0"), "{end:?}");
}

#[tokio::test]
async fn prom_assert_takes_no_answer_for_no() {
    let bench = ToolBench::new();
    let bad_query = json!({"status": "error", "errorType": "bad_data", "error": "parse error at char 3"}).to_string();
    let matrix = json!({"status": "success", "data": {"resultType": "matrix", "result": [1]}}).to_string();
    for (status, body, said) in [
        (400, bad_query, "the server answered 400: parse error at char 3"),
        (200, matrix, "it is a matrix"),
        (200, "<html>".to_owned(), "without JSON"),
        (503, "down".to_owned(), "without JSON"),
        (200, "{}".to_owned(), "no reason given"),
        (200, format!("\"{}\"", "x".repeat(2 << 20)), "larger than"),
        (200, json!({"status": "success", "data": {"resultType": "vector", "result": [{}]}}).to_string(), "without a value"),
    ] {
        let server = Server::new(move |_| (status, body.clone())).await;
        let end = bench.run("prom.assert", json!({"url": server.url, "expr": "up"})).await;
        assert!(error(&end).contains(said), "{said}: {end:?}");
    }
    let end = bench.run("prom.assert", json!({"url": "http://127.0.0.1:1", "expr": "up"})).await;
    assert!(error(&end).starts_with("`up` has no answer: "), "{end:?}");
}
