//! A node that runs out of something says so. Alone in its process, because it takes the process's descriptors away.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use amphi_protocol::journal::Outcome;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::{Bench, shell};

#[tokio::test]
async fn an_attempt_that_gets_no_descriptors_ends_as_resource_and_the_next_one_works() {
    let bench = Bench::new();
    assert_eq!(bench.run(shell("true")).await.outcome, Outcome::Succeeded);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, open + 3, hard).unwrap();
    let end = bench.run(shell("true")).await;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!(end.outcome, Outcome::Resource, "{end:?}");
    assert_eq!(bench.run(shell("true")).await.outcome, Outcome::Succeeded);
    support::wait_until("records go away", || std::fs::read_dir(bench.data_dir().join("guards")).unwrap().next().is_none());
}
