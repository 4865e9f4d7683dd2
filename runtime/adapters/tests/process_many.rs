//! Many jobs at once leave nothing behind. Alone in its process, because it counts descriptors and children.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use amphi_protocol::journal::Outcome;
use support::{Bench, shell, wait_until};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> Vec<String> {
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(1)?.parse().ok()) == Some(own)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_jobs_at_once_leak_nothing() {
    let bench = Bench::new();
    assert_eq!(bench.run(shell("true")).await.outcome, Outcome::Succeeded);
    let before = descriptors();
    let all = (0..200).map(|number| bench.start(shell(&format!("echo {number}; sleep 0.05 & exit {}", number % 3))));
    let all: Vec<_> = all.collect();
    for (number, running) in all.into_iter().enumerate() {
        let end = running.end.await.unwrap();
        assert_eq!(end.exit_code, Some(number as i32 % 3), "{end:?}");
    }
    wait_until("all descriptors are closed", || descriptors() <= before);
    wait_until("all guards are collected", || children().is_empty());
    for folder in ["guards", "attempts"] {
        wait_until("all folders are empty", || std::fs::read_dir(bench.data_dir().join(folder)).unwrap().next().is_none());
    }
}
