//! Events, output, objects and the bus on a real server.

use std::collections::BTreeMap;
use std::time::Duration;

use amphi_ports::{BusError, EventStream, MessageBus, ObjectStore, OutputChunk, OutputLog, OutputSource};
use amphi_protocol::event::{Event, EventType};
use amphi_protocol::ids::{AttemptRef, EpicId, EventSeq, ShardId};
use amphi_protocol::subjects;
use async_nats::jetstream;
use bytes::Bytes;
use futures::StreamExt;

use super::super::{NatsAgentMail, NatsBus, NatsEventStream, NatsObjectStore, NatsOutputLog};
use super::{DEADLINE, Fixture, eventually};

fn event(shard: u32, seq: u64) -> Event {
    Event {
        shard: ShardId(shard),
        seq: EventSeq(seq),
        ts: "2026-01-01T00:00:00.000Z".to_owned(),
        epic: Some(EpicId::parse("e-1").unwrap()),
        task: Some("build".to_owned()),
        run: Some(1),
        attempt: Some(1),
        agent: None,
        node: None,
        kind: EventType::TaskReady,
        data: serde_json::Map::new(),
        task_token: None,
    }
}

fn events(range: std::ops::RangeInclusive<u64>) -> Vec<Event> {
    range.map(|seq| event(0, seq)).collect()
}

async fn stored_seqs(fixture: &Fixture) -> Vec<u64> {
    let context = jetstream::new(fixture.client().await);
    let stream = context.get_stream(subjects::EVENTS_STREAM).await.unwrap();
    let state = stream.cached_info().state.clone();
    let mut seqs = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let body: Event = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(message.subject.as_str(), "amphi.evt.e-1.build.task-ready");
        seqs.push(body.seq.0);
    }
    seqs
}

#[tokio::test]
async fn events_are_published_in_order_once_and_the_last_one_is_known() {
    let fixture = Fixture::start().await;
    let stream = NatsEventStream::new(&fixture.client().await, 1);
    assert_eq!(stream.last_seq(ShardId(0)).await.unwrap(), 0);
    stream.publish(&events(1..=700)).await.unwrap();
    stream.publish(&events(600..=800)).await.unwrap();
    assert_eq!(stream.last_seq(ShardId(0)).await.unwrap(), 800);
    assert_eq!(stored_seqs(&fixture).await, (1..=800).collect::<Vec<_>>());
    // Another shard's events do not count as ours, wherever they stand.
    NatsEventStream::new(&fixture.client().await, 1).publish(&[event(1, 5)]).await.unwrap();
    assert_eq!(stream.last_seq(ShardId(0)).await.unwrap(), 800);
    assert_eq!(stream.last_seq(ShardId(1)).await.unwrap(), 5);
    assert_eq!(stream.last_seq(ShardId(2)).await.unwrap(), 0);
}

#[tokio::test]
async fn after_a_restart_that_emptied_it_the_event_stream_is_made_again_and_filled_without_a_hole() {
    let fixture = Fixture::start().await;
    let stream = NatsEventStream::new(&fixture.client().await, 1);
    stream.last_seq(ShardId(0)).await.unwrap();
    stream.publish(&events(1..=10)).await.unwrap();
    fixture.kill_server().await;
    eventually(|| async {
        let next = stream.last_seq(ShardId(0)).await? + 1;
        stream.publish(&events(next..=20)).await
    })
    .await;
    assert_eq!(stored_seqs(&fixture).await, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_that_somebody_else_made_again_is_noticed_by_the_publisher() {
    let fixture = Fixture::start().await;
    let stream = NatsEventStream::new(&fixture.client().await, 1);
    stream.last_seq(ShardId(0)).await.unwrap();
    stream.publish(&events(1..=10)).await.unwrap();
    fixture.kill_server().await;
    let other = NatsEventStream::new(&fixture.client().await, 1);
    eventually(|| other.last_seq(ShardId(0))).await;
    stream.publish(&events(11..=12)).await.unwrap_err();
    assert_eq!(stream.last_seq(ShardId(0)).await.unwrap(), 0, "nothing before the hole is taken for stored");
    stream.publish(&events(1..=12)).await.unwrap();
    let mut seqs = stored_seqs(&fixture).await;
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=12).collect::<Vec<_>>(), "each once, none missing");
}

fn attempt() -> AttemptRef {
    AttemptRef { epic: EpicId::parse("e-1").unwrap(), i: 0, run: 1, attempt: 2 }
}

fn chunk(source: OutputSource, text: &str) -> OutputChunk {
    OutputChunk { source, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

#[tokio::test]
async fn output_is_read_back_in_order_with_its_source_and_only_of_that_attempt() {
    let fixture = Fixture::start().await;
    let log = NatsOutputLog::open(&fixture.client().await, 1).await.unwrap();
    let written = [chunk(OutputSource::Out, "one\n"), chunk(OutputSource::Err, "two\n"), chunk(OutputSource::Out, "three\n")];
    for part in &written {
        log.append(&attempt(), "t[a.b]", part.clone()).await.unwrap();
    }
    // The same subject token, another task; and another attempt.
    log.append(&attempt(), "t[a:b]", chunk(OutputSource::Out, "other task")).await.unwrap();
    let next = AttemptRef { attempt: 3, ..attempt() };
    log.append(&next, "t[a.b]", chunk(OutputSource::Out, "other attempt")).await.unwrap();

    assert_eq!(log.read_output(&attempt().epic, "t[a.b]", 1, 2).await.unwrap(), written);
    assert_eq!(log.read_output(&attempt().epic, "t[a.b]", 7, 7).await.unwrap(), []);
    assert!(log.append(&attempt(), "t\r\nX: y", chunk(OutputSource::Out, "x")).await.is_err(), "no panic on a bad header");

    let mut following = log.follow_output(&attempt().epic, "t[a.b]", 1, 2);
    for wanted in &written {
        assert_eq!(&following.next().await.unwrap().unwrap(), wanted);
    }
    fixture.kill_server().await;
    let late = chunk(OutputSource::Err, "late");
    let same = attempt();
    eventually(|| log.append(&same, "t[a.b]", late.clone())).await;
    let seen = tokio::time::timeout(DEADLINE, following.next()).await.expect("following survives a restart");
    assert_eq!(seen.unwrap().unwrap(), late);
}

#[tokio::test]
async fn a_large_chunk_of_output_is_stored_whole() {
    let fixture = Fixture::start().await;
    let log = NatsOutputLog::open(&fixture.client().await, 1).await.unwrap();
    let bytes = Bytes::from(vec![b'x'; 1_000_000]);
    log.append(&attempt(), "t", OutputChunk { source: OutputSource::Out, bytes: bytes.clone() }).await.unwrap();
    let chunks = log.read_output(&attempt().epic, "t", 1, 2).await.unwrap();
    let joined: Vec<u8> = chunks.iter().flat_map(|c| c.bytes.to_vec()).collect();
    assert_eq!(joined, bytes);
}

#[tokio::test]
async fn objects_are_stored_once_and_read_back_over_a_restart() {
    let fixture = Fixture::start().await;
    let store = NatsObjectStore::open(&fixture.client().await, 1).await.unwrap();
    let again = NatsObjectStore::open(&fixture.client().await, 1).await.unwrap();
    let bytes = Bytes::from((0..3_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    assert_eq!(store.get("abc").await.unwrap(), None);
    store.put("abc", bytes.clone()).await.unwrap();
    again.put("abc", bytes.clone()).await.unwrap();
    store.put("empty", Bytes::new()).await.unwrap();
    fixture.kill_server().await;
    assert_eq!(eventually(|| again.get("abc")).await, Some(bytes));
    assert_eq!(store.get("empty").await.unwrap(), Some(Bytes::new()));
}

#[tokio::test]
async fn the_bus_carries_headers_answers_and_says_when_nobody_listens() {
    let fixture = Fixture::start().await;
    let bus = NatsBus::new(fixture.client().await);
    // Nodes answer each other only where no client may listen.
    let client = super::super::connect_node_now(&fixture.server.core_url(), "test", "node-1").await.unwrap();
    let other = NatsBus::new(client.clone());
    assert!(bus.is_connected());
    let mut inbox = bus.subscribe("amphi.int.manager.test".to_owned()).await.unwrap();
    let headers = BTreeMap::from([("Amphi-Codec".to_owned(), "bincode/1".to_owned())]);
    // The clone is kept: a connection whose last handle is dropped ends without sending what is queued.
    let answerer = bus.clone();
    let answering = tokio::spawn(async move {
        let message = inbox.next().await.unwrap();
        answerer.publish(message.reply.clone().unwrap(), BTreeMap::new(), "pong".into()).await.unwrap();
        message
    });
    let answer = other.request("amphi.int.manager.test".to_owned(), headers.clone(), "ping".into(), DEADLINE).await.unwrap();
    assert_eq!(answer.body, "pong");
    let asked = answering.await.unwrap();
    assert_eq!((asked.headers, asked.body), (headers, Bytes::from("ping")));

    let nobody = other.request("amphi.int.manager.nobody".to_owned(), BTreeMap::new(), Bytes::new(), DEADLINE).await;
    assert!(matches!(nobody, Err(BusError::NoResponders { .. })), "{nobody:?}");
    let _silent = client.subscribe("amphi.int.manager.silent").await.unwrap();
    client.flush().await.unwrap();
    let silence = other.request("amphi.int.manager.silent".to_owned(), BTreeMap::new(), Bytes::new(), Duration::from_millis(50)).await;
    assert!(matches!(silence, Err(BusError::Timeout { .. })), "{silence:?}");
}

async fn reconnected(fixture: &Fixture) -> async_nats::Client {
    let url = fixture.server.core_url();
    eventually(|| super::super::connect(&url, "other")).await
}

#[tokio::test]
async fn a_subscription_survives_a_restart_of_the_server() {
    let fixture = Fixture::start().await;
    let bus = NatsBus::new(fixture.client().await);
    let mut inbox = bus.subscribe("amphi.int.manager.test".to_owned()).await.unwrap();
    fixture.kill_server().await;
    let other = NatsBus::new(reconnected(&fixture).await);
    // Core messages are lost while the subscriber is away: sent until one arrives.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let received = loop {
        assert!(tokio::time::Instant::now() < deadline, "nothing arrives any more");
        other.publish("amphi.int.manager.test".to_owned(), BTreeMap::new(), "x".into()).await.unwrap();
        if let Ok(message) = tokio::time::timeout(Duration::from_millis(100), inbox.next()).await {
            break message;
        }
    };
    assert_eq!(received.unwrap().body, "x");
    assert!(bus.is_connected());
}

#[tokio::test]
async fn text_that_cannot_be_a_header_or_a_subject_is_an_error_and_no_panic() {
    let fixture = Fixture::start().await;
    let bus = NatsBus::new(fixture.client().await);
    let send = |subject: &str, name: &str, value: &str| {
        bus.publish(subject.to_owned(), BTreeMap::from([(name.to_owned(), value.to_owned())]), Bytes::new())
    };
    send("a.b", "X", "plain").await.unwrap();
    for (subject, name, value) in [
        ("a.b", "X", "two\r\nlines"),
        ("a.b", "X", "nul\n"),
        ("a.b", "X: y", "v"),
        ("a.b", "", "v"),
        ("a.*", "X", "v"),
        ("a.>", "X", "v"),
        ("a..b", "X", "v"),
        ("", "X", "v"),
        ("a b", "X", "v"),
    ] {
        assert!(send(subject, name, value).await.is_err(), "{subject:?} {name:?} {value:?}");
    }
}

#[tokio::test]
async fn the_stream_of_agent_messages_can_be_asked_for_again_and_again() {
    let fixture = Fixture::start().await;
    let client = fixture.client().await;
    NatsAgentMail::open(&client, &client, 1).await.unwrap();
    NatsAgentMail::open(&client, &client, 1).await.unwrap();
    jetstream::new(client).publish("amphi.msg.Scribe", "x".into()).await.unwrap().await.unwrap();
}
