//! The server that `up` runs: kept alive, ended, found again.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use amphi_ports::Journal as _;
use amphi_protocol::ids::ShardId;
use bytes::Bytes;
use futures::StreamExt as _;

use super::super::managed::{
    DataLock, Durability, LockError, ManagedError, ManagedServer, ServerState, end_leftover, find_server, process_start_time,
};
use super::{DEADLINE, Fixture, kill_9, options, tools};
use crate::nats::{JetStreamJournal, check_server, connect, with_credentials};

#[tokio::test]
async fn a_started_server_has_jetstream_and_lets_in_only_its_credentials() {
    let fixture = Fixture::start_with(Durability::Power).await;
    check_server(&fixture.client().await).await.unwrap();
    let without = fixture.server.url().replace('@', "x@");
    assert!(connect(&without, "stranger").await.is_err());
    for file in ["server.conf", "identity.json", "pid.json", "console.log"] {
        let mode = fixture.folder.path().join("nats").join(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_killed_server_is_back_within_a_second_with_the_same_port_and_credentials() {
    let fixture = Fixture::start().await;
    let url = fixture.server.url();
    let client = fixture.client().await;
    for _ in 0..5 {
        let before = Instant::now();
        fixture.kill_server().await;
        println!("another process after {:?}", before.elapsed());
        super::eventually(|| client.flush()).await;
        super::eventually(|| check_server(&client)).await;
    }
    assert_eq!(fixture.server.url(), url);
    connect(&url, "again").await.unwrap();
}

#[tokio::test]
async fn port_and_credentials_stay_over_stop_and_start() {
    let Fixture { server, lock, folder } = Fixture::start().await;
    let url = server.url();
    server.stop().await;
    assert!(connect(&url, "test").await.is_err(), "it is stopped");
    let server = ManagedServer::start(options(folder.path()), &lock).await.unwrap();
    assert_eq!(server.url(), url);
    server.stop().await;
}

#[tokio::test]
async fn a_port_that_a_stranger_took_is_replaced_at_a_fresh_start() {
    let Fixture { server, lock, folder } = Fixture::start().await;
    let url = server.url();
    server.stop().await;
    let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
    let _stranger = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let server = ManagedServer::start(options(folder.path()), &lock).await.unwrap();
    assert_ne!(server.url(), url);
    connect(&server.url(), "test").await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_second_holder_of_the_data_folder_is_refused_and_told_who_has_it() {
    let fixture = Fixture::start().await;
    match DataLock::acquire(fixture.folder.path()) {
        Err(LockError::Held { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    let path = fixture.lock.path().to_owned();
    drop(fixture.lock);
    assert!(path.exists());
    DataLock::acquire(fixture.folder.path()).expect("the lock ends with its holder, whatever its children do");
}

/// Starts a nats-server on the folder's configuration that nobody watches, as a killed `up` would leave it.
fn leave_behind(data: &Path) -> std::process::Child {
    let config = data.join("nats/server.conf").canonicalize().unwrap();
    Command::new(find_server(Some(&tools())).unwrap()).arg("-c").arg(config).process_group(0).spawn().unwrap()
}

#[tokio::test]
async fn a_server_left_behind_is_ended_before_another_starts() {
    let Fixture { server, lock, folder } = Fixture::start().await;
    let url = server.url();
    server.stop().await;
    let mut left = leave_behind(folder.path());
    super::eventually(|| connect(&url, "test")).await;
    assert!(process_start_time(left.id()).is_some());

    let server = ManagedServer::start(options(folder.path()), &lock).await.unwrap();
    assert!(process_start_time(left.id()).is_none(), "the old one is gone");
    assert_eq!(server.url(), url, "and its port is free for the new one");
    assert_ne!(server.pid(), Some(left.id()));
    left.wait().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn processes_that_are_not_this_folders_server_are_left_alone() {
    let one = Fixture::start().await;
    let other = Fixture::start().await;
    let pid = other.server.pid();
    // A stale pid file that names a stranger, here another folder's server.
    std::fs::copy(other.folder.path().join("nats/pid.json"), one.folder.path().join("nats/pid.json")).unwrap();
    let data = one.folder.path().to_owned();
    one.server.stop().await;
    assert!(!end_leftover(&data).unwrap());
    assert_eq!(other.server.pid(), pid);
    check_server(&other.client().await).await.unwrap();
}

#[tokio::test]
async fn a_dropped_server_is_dead_soon() {
    let fixture = Fixture::start().await;
    let pid = fixture.server.pid().unwrap();
    let mut states = fixture.server.states();
    drop(fixture.server);
    tokio::time::timeout(DEADLINE, states.wait_for(|s| *s == ServerState::Stopped)).await.unwrap().ok();
    assert!(process_start_time(pid).is_none());
}

#[tokio::test]
async fn a_server_that_cannot_start_is_an_error_with_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let lock = DataLock::acquire(folder.path()).unwrap();
    std::fs::create_dir_all(folder.path().join("nats")).unwrap();
    std::fs::write(folder.path().join("nats/store"), "not a folder").unwrap();
    match ManagedServer::start(options(folder.path()), &lock).await {
        Err(ManagedError::NotReady { why, .. }) => assert!(why.contains("Can't start JetStream"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn twenty_kills_in_a_row_do_not_make_the_keeper_give_up() {
    let fixture = Fixture::start().await;
    let url = fixture.server.url();
    for _ in 0..20 {
        fixture.kill_server().await;
    }
    let client = super::eventually(|| connect(&url, "test")).await;
    super::eventually(|| check_server(&client)).await;
    assert!(fixture.server.pid().is_some_and(|pid| process_start_time(pid).is_some()));
    kill_9(fixture.server.pid().unwrap());
}

#[tokio::test]
async fn a_client_can_neither_write_to_a_journal_nor_change_its_stream() {
    let fixture = Fixture::start().await;
    let journal = JetStreamJournal::open(&fixture.client().await, ShardId(0), 1, true).await.unwrap();
    journal.append(0, Bytes::from_static(b"ours")).await.unwrap();
    let (user, password) = fixture.server.node_credentials();
    let node = connect(&with_credentials(&fixture.server.url(), &user, &password), "a node elsewhere").await.unwrap();
    let stranger = connect(&fixture.server.url(), "stranger").await.unwrap();
    for client in [&stranger, &node] {
        client.publish("amphi.journal.0", Bytes::from_static(b"garbage")).await.unwrap();
        for verb in ["DELETE", "PURGE", "UPDATE", "MSG.DELETE"] {
            client.publish(format!("$JS.API.STREAM.{verb}.AMPHI_JOURNAL_0"), Bytes::from_static(b"{\"seq\":1}")).await.unwrap();
        }
        // Everything before the answer has been dealt with, in order, on this connection.
        check_server(client).await.unwrap();
    }
    assert_eq!(journal.last().await.unwrap(), Some((1, Bytes::from_static(b"ours"))));
    // Nodes speak to each other, and clients do not take part in that.
    let listener = fixture.client().await;
    let mut heard = listener.subscribe("amphi.int.>").await.unwrap();
    check_server(&listener).await.unwrap();
    stranger.publish("amphi.int.node.node-1.command", Bytes::from_static(b"garbage")).await.unwrap();
    check_server(&stranger).await.unwrap();
    check_server(&node).await.unwrap();
    node.publish("amphi.int.from.node-1.shard.0.input", Bytes::from_static(b"news")).await.unwrap();
    assert_eq!(heard.next().await.unwrap().payload, "news");
    // It may still read, and use its own part of the system.
    stranger.publish("amphi.msg.broadcast", Bytes::from_static(b"{}")).await.unwrap();
    assert!(JetStreamJournal::exists(&stranger, ShardId(0)).await.unwrap());
}
