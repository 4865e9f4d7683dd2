//! A cluster that says what a test wants: a real NATS server, and an API whose answers the test writes down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amphi_adapters::nats::connect;
use amphi_adapters::nats::managed::{DataLock, Durability, ManagedOptions, ManagedServer};
use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::process::Command;

/// How long anything here may take on a noisy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

type Answer = Box<dyn Fn(&Value, u64) -> Value + Send>;

/// What the API answers and what it was asked.
#[derive(Default)]
pub struct Script {
    answers: BTreeMap<String, (u64, Answer)>,
    /// Endpoint, body and idempotency key of every request.
    pub asked: Vec<(String, Value, Option<String>)>,
}

/// A NATS server with a scripted API.
pub struct FakeCluster {
    /// The data folder, as `--data` wants it.
    pub data: PathBuf,
    pub nats: async_nats::Client,
    pub script: Arc<Mutex<Script>>,
    server: ManagedServer,
    _lock: DataLock,
    _folder: tempfile::TempDir,
    _api: tokio::task::JoinSet<()>,
}

impl FakeCluster {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().canonicalize().expect("the folder is there");
        let lock = DataLock::acquire(&data).expect("nobody else has it");
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools");
        let options = ManagedOptions { data: data.clone(), tools: Some(tools), durability: Durability::Process, nodes: Vec::new() };
        let server = ManagedServer::start(options, &lock).await.expect("a NATS server");
        std::fs::write(data.join("ready.json"), json!({ "nats": server.url() }).to_string()).expect("written");
        // As a node has them: one connection where requests arrive, one where clients read.
        let core = connect(&server.core_url(), "test").await.expect("a connection");
        let nats = connect(&server.edge_url(), "test").await.expect("a connection");
        let script = Arc::new(Mutex::new(Script::default()));
        let mut api = tokio::task::JoinSet::new();
        let requests = core.subscribe("amphi.api.>").await.expect("a subscription");
        core.flush().await.expect("the server has it");
        api.spawn(serve(core, requests, Arc::clone(&script)));
        Self { data, nats, script, server, _lock: lock, _folder: folder, _api: api }
    }

    /// From now on `endpoint` answers what `answer` makes of the body and the number of the request, from 1. Null: no answer at all.
    pub fn answer(&self, endpoint: &str, answer: impl Fn(&Value, u64) -> Value + Send + 'static) {
        self.script.lock().expect("no test panicked in it").answers.insert(endpoint.to_owned(), (0, Box::new(answer)));
    }

    /// What `endpoint` was asked.
    pub fn asked(&self, endpoint: &str) -> Vec<(Value, Option<String>)> {
        let script = self.script.lock().expect("no test panicked in it");
        script.asked.iter().filter(|(name, ..)| name == endpoint).map(|(_, body, id)| (body.clone(), id.clone())).collect()
    }

    /// Makes the stream of events, in memory as the real one.
    pub async fn make_events(&self) -> jetstream::Context {
        let js = jetstream::new(self.nats.clone());
        let config = stream::Config {
            name: "AMPHI_EVENTS".into(),
            subjects: vec!["amphi.evt.>".into()],
            storage: stream::StorageType::Memory,
            ..Default::default()
        };
        js.create_stream(config).await.expect("a stream");
        js
    }

    /// A command with `--data` set, its output captured.
    pub fn amphi(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_amphi"));
        command.args(arguments).arg("--data").arg(&self.data).env_remove("AMPHI_NATS_URL").env_remove("AMPHI_PROGRESS");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        let output = tokio::time::timeout(PATIENCE, self.amphi(arguments).output()).await;
        Ended::from(output.unwrap_or_else(|_| panic!("{arguments:?} hangs")).expect("it runs"))
    }

    /// Ends the server.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

async fn serve(nats: async_nats::Client, mut requests: async_nats::Subscriber, script: Arc<Mutex<Script>>) {
    while let Some(request) = requests.next().await {
        let Some(reply) = request.reply else { continue };
        let endpoint = request.subject.trim_start_matches("amphi.api.").to_owned();
        let body: Value = serde_json::from_slice(&request.payload).unwrap_or_default();
        let id = request.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id")).map(|id| id.as_str().to_owned());
        let answer = {
            let mut script = script.lock().expect("no test panicked in it");
            script.asked.push((endpoint.clone(), body.clone(), id));
            match script.answers.get_mut(&endpoint) {
                Some((count, answer)) => {
                    *count += 1;
                    answer(&body, *count)
                }
                None => error("internal", &format!("the test has no answer to {endpoint}"), false),
            }
        };
        if answer.is_null() {
            continue;
        }
        let mut headers = HeaderMap::new();
        if !answer["error"].is_null() {
            headers.insert("Nats-Service-Error", "refused");
            headers.insert("Nats-Service-Error-Code", "500");
        }
        nats.publish_with_headers_reply(reply, headers, answer).await;
    }
}

trait PublishReply {
    async fn publish_with_headers_reply(&self, to: async_nats::Subject, headers: HeaderMap, body: Value);
}

impl PublishReply for async_nats::Client {
    async fn publish_with_headers_reply(&self, to: async_nats::Subject, headers: HeaderMap, body: Value) {
        // A client that is gone does not matter to a server.
        let _ = self.publish_with_headers(to, headers, body.to_string().into()).await;
    }
}

/// The body of a refusal.
pub fn error(code: &str, message: &str, retryable: bool) -> Value {
    json!({ "error": { "code": code, "message": message, "retryable": retryable } })
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Ended {
    /// Standard output as JSON lines.
    pub fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
    }
}
