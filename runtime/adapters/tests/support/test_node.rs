//! A node that tests can kill and stop: it runs one command under a guard. Not part of any release.
//!
//! `guard …` is the guard. `node DATA SCRIPT [no-cgroups]` runs SCRIPT as attempt `e/0.1.1`, writes `started PID` and `end JSON` to standard output,
//! and cancels on a line on standard input.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use amphi_adapters::process::{ProcessConfig, ProcessEngine, become_subreaper, confirm_dead, guard_main};
use amphi_ports::{Engine, JobNews, JobOrder, ObjectStore, OutputChunk, OutputLog, StoreError};
use amphi_protocol::document::{Script, Work, Workspace};
use amphi_protocol::ids::{AttemptRef, EpicId, RoleName, Token};
use amphi_protocol::node::Job;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::AsyncBufReadExt;
use tokio_util::sync::CancellationToken;

/// Forgets everything.
struct Nowhere;

impl OutputLog for Nowhere {
    fn append<'a>(&'a self, _: &'a AttemptRef, _: &'a str, _: OutputChunk) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}

impl ObjectStore for Nowhere {
    fn delete<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn put<'a>(&'a self, _: &'a str, _: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async { Ok(None) })
    }
}

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(role) if role == "guard" => guard_main(arguments),
        Some(role) if role == "node" => {
            let data_dir = PathBuf::from(arguments.next().expect("the data folder is given"));
            let script = arguments.next().and_then(|text| text.into_string().ok()).expect("the script is given");
            node(data_dir, script, arguments.next().is_none());
        }
        _ => panic!("usage: amphi-test-node guard|node"),
    }
}

#[tokio::main]
async fn node(data_dir: PathBuf, script: String, use_cgroups: bool) {
    become_subreaper().expect("Linux has child subreapers");
    confirm_dead(&data_dir, std::time::Duration::from_secs(20)).expect("nothing of an earlier life is left");
    let mut config = ProcessConfig::new(data_dir, "/".to_owned());
    config.use_cgroups = use_cgroups;
    let engine = ProcessEngine::open(config, Arc::new(Nowhere), Arc::new(Nowhere)).expect("the data folder can be used");
    let job = Job {
        effects: BTreeMap::new(),
        work: Work::Run(Script { text: script, variables: BTreeMap::new() }),
        workspace: Workspace::None,
        workdir: None,
        env: BTreeMap::new(),
        values: BTreeMap::new(),
        outputs: BTreeMap::new(),
        idempotency_key: "key".to_owned(),
        inputs: BTreeMap::new(),
        reference: None,
    };
    let attempt = AttemptRef { epic: EpicId::parse("e").expect("`e` is an epic id"), i: 0, run: 1, attempt: 1 };
    let order = JobOrder {
        attempt,
        task: "t".to_owned(),
        token: Token(1),
        job: Arc::new(job),
        hurry: CancellationToken::new(),
        role: RoleName::parse("Tester").expect("`Tester` is a role"),
    };
    let (news, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let mut end = engine.run(order, news, cancel.clone());
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    let mut listening = true;
    loop {
        tokio::select! {
            end = &mut end => {
                println!("end {}", serde_json::to_string(&end).expect("an end is JSON"));
                std::process::exit(0);
            }
            Some(news) = heard.recv() => if let JobNews::Started { pid: Some(pid) } = news {
                println!("started {pid}");
            },
            line = lines.next_line(), if listening => match line {
                Ok(Some(_)) => cancel.cancel(),
                Ok(None) | Err(_) => listening = false,
            },
        }
    }
}
