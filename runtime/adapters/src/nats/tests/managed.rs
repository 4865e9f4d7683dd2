//! The server that `up` runs: kept alive, ended, found again.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use amphi_ports::Journal as _;
use amphi_protocol::ids::{NodeId, ShardId};
use async_nats::Client;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};

use super::super::managed::{
    AdmitError, DataLock, Durability, LockError, ManagedError, ManagedServer, ServerState, end_leftover, find_server, process_start_time,
};
use super::{DEADLINE, Fixture, kill_9, options, tools};
use crate::nats::{JetStreamJournal, NatsAgentMail, check_server, connect, with_credentials};

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
    let far = (NodeId::parse("far-node-1").unwrap(), "x".repeat(40));
    fixture.server.users().admit(std::slice::from_ref(&far), false).await.unwrap();
    let far_url = with_credentials(&fixture.server.url(), far.0.as_str(), &far.1);
    let node = super::super::connect_node(&far_url, "a node elsewhere", far.0.as_str()).await.unwrap();
    let in_order = async |client: &Client| {
        // Everything before the answer has been dealt with on this connection: nobody is there.
        assert!(client.request(client.new_inbox(), Bytes::new()).await.is_err());
    };
    super::eventually(|| async { if node.server_info().version.is_empty() { Err("not yet") } else { Ok(()) } }).await;
    let stranger = connect(&fixture.server.url(), "stranger").await.unwrap();
    for client in [&stranger, &node] {
        client.publish("amphi.journal.0", Bytes::from_static(b"garbage")).await.unwrap();
        for verb in ["DELETE", "PURGE", "UPDATE", "MSG.DELETE"] {
            client.publish(format!("$JS.API.STREAM.{verb}.AMPHI_JOURNAL_0"), Bytes::from_static(b"{\"seq\":1}")).await.unwrap();
        }
        in_order(client).await;
    }
    assert_eq!(journal.last().await.unwrap(), Some((1, Bytes::from_static(b"ours"))));
    // A node speaks under its own name, and clients do not take part in that.
    let listener = fixture.client().await;
    let mut heard = listener.subscribe("amphi.int.from.>").await.unwrap();
    let mut commands = listener.subscribe("amphi.int.node.>").await.unwrap();
    check_server(&listener).await.unwrap();
    for client in [&stranger, &node] {
        for subject in ["amphi.int.node.node-1.command", "amphi.int.from.node-1.shard.0.input"] {
            client.publish(subject, Bytes::from_static(b"garbage")).await.unwrap();
        }
        in_order(client).await;
    }
    node.publish("amphi.int.from.far-node-1.shard.0.input", Bytes::from_static(b"news")).await.unwrap();
    assert_eq!(heard.next().await.unwrap().payload, "news");
    assert!(commands.next().now_or_never().is_none(), "nobody commanded anybody");
    // It does not even see the journal; its own part of the system it may use.
    stranger.publish("amphi.msg.broadcast", Bytes::from_static(b"{}")).await.unwrap();
    assert!(!JetStreamJournal::exists(&stranger, ShardId(0)).await.unwrap());
}

#[tokio::test]
async fn a_node_that_is_shut_out_is_disconnected_at_once_and_others_are_not() {
    let fixture = Fixture::start().await;
    let users = fixture.server.users();
    let nodes = ["a-node-1", "b-node-1"].map(|id| (NodeId::parse(id).unwrap(), "p".repeat(40)));
    users.admit(&nodes, false).await.unwrap();
    assert!(matches!(users.admit(&[(nodes[0].0.clone(), "q".repeat(40))], false).await, Err(AdmitError::Taken { .. })));
    assert!(matches!(users.admit(&[(NodeId::parse("c-node-1").unwrap(), "short".to_owned())], false).await, Err(AdmitError::Taken { .. })));
    users.admit(&nodes, false).await.expect("who is known is let in again");
    let url = |(node, password): &(NodeId, String)| with_credentials(&fixture.server.url(), node.as_str(), password);
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(connect(&url(node), node.0.as_str()).await.unwrap());
    }
    let core = fixture.client().await;
    let connects = |client: &Client| client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
    assert!(users.revoke(std::slice::from_ref(&nodes[0].0)).unwrap());
    let began = Instant::now();
    super::eventually(|| {
        let gone = clients[0].connection_state() != async_nats::connection::State::Connected;
        async move { if gone { Ok(()) } else { Err("still connected") } }
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(connect(&url(&nodes[0]), "again").await.is_err(), "and does not come back");
    assert!(matches!(users.admit(&nodes[..1], false).await, Err(AdmitError::Revoked { .. })));
    assert_eq!((connects(&clients[1]), connects(&core)), (1, 1), "the others did not lose their connections");
    assert!(!users.revoke(std::slice::from_ref(&nodes[0].0)).unwrap(), "there is nobody left to shut out");
}

#[tokio::test]
async fn what_an_earlier_build_kept_in_one_account_is_found_in_two() {
    let fixture = Fixture::start().await;
    let core = fixture.client().await;
    let edge = connect(&fixture.server.edge_url(), "edge").await.unwrap();
    JetStreamJournal::open(&core, ShardId(0), 1, true).await.unwrap().append(0, Bytes::from_static(b"kept")).await.unwrap();
    let mail = NatsAgentMail::open(&core, &edge, 1).await.unwrap();
    drop(mail);
    edge.publish("amphi.msg.A", Bytes::from_static(b"hello")).await.unwrap();
    check_server(&edge).await.unwrap();
    let (data, lock) = (fixture.folder.path().to_owned(), fixture.lock);
    fixture.server.stop().await;
    // As an earlier build left it: everything in the global account, and an identity that knows two users.
    let accounts = data.join("nats/store/jetstream");
    std::fs::rename(accounts.join("EDGE/streams/AMPHI_MESSAGES"), accounts.join("CORE/streams/AMPHI_MESSAGES")).unwrap();
    std::fs::remove_dir_all(accounts.join("EDGE")).unwrap();
    std::fs::rename(accounts.join("CORE"), accounts.join("$G")).unwrap();
    let identity = data.join("nats/identity.json");
    let mut known: serde_json::Value = serde_json::from_slice(&std::fs::read(&identity).unwrap()).unwrap();
    known["user"] = "amphi".into();
    for later in ["edge_password", "clients", "nodes", "revoked"] {
        known.as_object_mut().unwrap().remove(later);
    }
    std::fs::write(&identity, known.to_string()).unwrap();
    let server = ManagedServer::start(options(&data), &lock).await.unwrap();
    assert!(server.url().starts_with("nats://amphi:"), "the URL that clients have goes on working");
    let journal = JetStreamJournal::open(&connect(&server.core_url(), "core").await.unwrap(), ShardId(0), 1, false).await.unwrap();
    assert_eq!(journal.last().await.unwrap(), Some((1, Bytes::from_static(b"kept"))));
    let client = connect(&server.url(), "client").await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("AMPHI_MESSAGES").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 1);
    server.stop().await;
}
