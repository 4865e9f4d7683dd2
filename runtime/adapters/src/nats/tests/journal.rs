//! The journal on a real server: compare-and-set, kills, lost acks, damage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use amphi_ports::{AppendError, Journal, StoreError};
use amphi_protocol::ids::ShardId;
use async_nats::jetstream;
use bytes::Bytes;
use futures::StreamExt;

use amphi_protocol::subjects;

use super::super::JetStreamJournal;
use super::{Fixture, eventually};
use crate::nats::managed::Durability;

const SHARD: ShardId = ShardId(0);

async fn journal(fixture: &Fixture) -> JetStreamJournal {
    JetStreamJournal::open(&fixture.client().await, SHARD, 1, true).await.unwrap()
}

async fn read_all(journal: &JetStreamJournal, after: u64) -> Vec<(u64, Bytes)> {
    journal.read(after).map(|item| item.unwrap()).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_writers_exactly_one_wins_each_position() {
    let fixture = Fixture::start().await;
    journal(&fixture).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(journal(&fixture).await);
    }
    for position in 0..10_u64 {
        let racers = clients
            .iter()
            .enumerate()
            .map(|(n, journal)| async move { (n, journal.append(position, Bytes::from(format!("{position} by {n}"))).await) });
        let results = futures::future::join_all(racers).await;
        let winners: Vec<usize> = results.iter().filter_map(|(n, r)| matches!(r, Ok(s) if *s == position + 1).then_some(*n)).collect();
        assert_eq!(winners.len(), 1, "position {position}: {results:?}");
        let losers = results.iter().filter(|(_, r)| matches!(r, Err(AppendError::Conflict | AppendError::Busy)));
        assert_eq!(losers.count(), 19, "position {position}: {results:?}");
        let (sequence, bytes) = clients[0].last().await.unwrap().unwrap();
        assert_eq!((sequence, bytes), (position + 1, Bytes::from(format!("{position} by {}", winners[0]))));
    }
    assert_eq!(read_all(&clients[3], 0).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_record_is_lost_when_the_server_is_killed_under_load() {
    let fixture = Arc::new(Fixture::start_with(Durability::Power).await);
    let journal = journal(&fixture).await;
    let over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (journal, over) = (journal.clone(), Arc::clone(&over));
        async move {
            let mut expected = 0;
            let mut doubts = 0;
            while !over.load(Ordering::Relaxed) {
                let record = Bytes::from(format!("record {expected}"));
                expected = match journal.append(expected, record.clone()).await {
                    Ok(sequence) => sequence,
                    // The identical bytes again, until they are acknowledged or refused.
                    Err(AppendError::Unknown(_) | AppendError::Busy) => {
                        doubts += 1;
                        expected
                    }
                    Err(AppendError::Conflict) => {
                        let (sequence, last) = eventually(|| journal.last()).await.expect("a conflict means that there is a record");
                        assert_eq!((sequence, last), (expected + 1, record), "the only writer's own record stands there");
                        sequence
                    }
                };
            }
            (expected, doubts)
        }
    });
    for _ in 0..3 {
        let reached = eventually(|| journal.last()).await.map_or(0, |(sequence, _)| sequence);
        fixture.kill_server().await;
        eventually(|| async {
            let last = journal.last().await.map_err(|e| e.to_string())?.map_or(0, |(sequence, _)| sequence);
            if last > reached + 20 { Ok(()) } else { Err(format!("{last} is not past {reached} + 20")) }
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    let (acknowledged, doubts) = writer.await.unwrap();
    let records = read_all(&journal, 0).await;
    println!("{acknowledged} records, {doubts} doubts over 3 kills");
    assert_eq!(records.len() as u64, acknowledged);
    for (position, (sequence, bytes)) in records.into_iter().enumerate() {
        assert_eq!((sequence, bytes), (position as u64 + 1, Bytes::from(format!("record {position}"))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_goes_on_where_it_was_when_the_server_is_killed_in_its_middle() {
    let fixture = Fixture::start().await;
    let journal = journal(&fixture).await;
    let record = Bytes::from(vec![b'x'; 20_000]);
    for expected in 0..1_000 {
        journal.append(expected, record.clone()).await.unwrap();
    }
    let mut reading = journal.read(0);
    for wanted in 1..=10 {
        assert_eq!(reading.next().await.unwrap().unwrap().0, wanted);
    }
    fixture.kill_server().await;
    for wanted in 11..=1_000 {
        assert_eq!(reading.next().await.unwrap().unwrap(), (wanted, record.clone()));
    }
    assert!(reading.next().await.is_none(), "a read ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_has_every_record_once_over_kills_of_the_server() {
    let fixture = Fixture::start_with(Durability::Power).await;
    let journal = Arc::new(journal(&fixture).await);
    let mut following = journal.follow(0);
    for expected in 0..60 {
        let bytes = Bytes::from(format!("record {expected}"));
        eventually(|| async {
            match journal.append(expected, bytes.clone()).await {
                Ok(_) | Err(AppendError::Conflict) => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await;
        // Now and then it falls behind, and the server dies with what is on its way.
        if expected % 5 == 4 {
            if expected % 20 == 19 {
                fixture.kill_server().await;
            }
            for sequence in expected - 3..=expected + 1 {
                let next = tokio::time::timeout(super::DEADLINE, following.next()).await.expect("in time").unwrap().unwrap();
                assert_eq!(next, (sequence, Bytes::from(format!("record {}", sequence - 1))));
            }
        }
    }
    eventually(|| journal.trim(31)).await;
    let error = tokio::time::timeout(super::DEADLINE, journal.follow(10).next()).await.expect("in time").unwrap().unwrap_err();
    assert!(error.damaged, "what was trimmed is not passed over: {error:?}");
}

#[tokio::test]
async fn a_record_published_again_after_a_lost_ack_is_refused_and_found_to_be_ours() {
    let fixture = Fixture::start().await;
    let journal = journal(&fixture).await;
    let record = Bytes::from_static(b"ours");
    assert_eq!(journal.append(0, record.clone()).await.unwrap(), 1);
    // The ack was lost, so the sender sends the same again.
    assert!(matches!(journal.append(0, record.clone()).await, Err(AppendError::Conflict)));
    assert_eq!(journal.last().await.unwrap(), Some((1, record)));
}

#[tokio::test]
async fn an_append_to_a_stopped_server_is_in_doubt_within_seconds_and_may_land_later() {
    use nix::sys::signal::{Signal, kill};
    let fixture = Fixture::start().await;
    let journal = journal(&fixture).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(fixture.server.pid().unwrap()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    // The signal stops one thread after the other: one that still runs could answer.
    eventually(|| async { all_threads_stopped(pid.as_raw()) }).await;
    let record = Bytes::from_static(b"late");
    let result = tokio::time::timeout(super::DEADLINE, journal.append(0, record.clone())).await.expect("an append has a deadline");
    kill(pid, Signal::SIGCONT).unwrap();
    assert!(matches!(result, Err(AppendError::Unknown(_))), "{result:?}");
    // The same bytes again until there is an answer: exactly one of them stands.
    eventually(|| async {
        match journal.append(0, record.clone()).await {
            Ok(_) | Err(AppendError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await;
    assert_eq!(read_all(&journal, 0).await, [(1, record)]);
}

#[tokio::test]
async fn a_missing_journal_is_created_only_when_told_to() {
    let fixture = Fixture::start().await;
    let client = fixture.client().await;
    assert!(!JetStreamJournal::exists(&client, SHARD).await.unwrap());
    let refused = JetStreamJournal::open(&client, SHARD, 1, false).await.err().expect("it is missing");
    assert!(refused.damaged);
    assert!(!JetStreamJournal::exists(&client, SHARD).await.unwrap());
    let journal = JetStreamJournal::open(&client, SHARD, 1, true).await.unwrap();
    assert_eq!(journal.last().await.unwrap(), None);
    assert!(read_all(&journal, 0).await.is_empty());
    journal.append(0, Bytes::from_static(b"a")).await.unwrap();
    let again = JetStreamJournal::open(&client, SHARD, 1, false).await.unwrap();
    assert_eq!(again.last().await.unwrap(), Some((1, Bytes::from_static(b"a"))));
}

#[tokio::test]
async fn a_purged_shortened_or_deleted_journal_is_damage_and_never_looks_empty() {
    let fixture = Fixture::start().await;
    let client = fixture.client().await;
    let journal = journal(&fixture).await;
    for expected in 0..5 {
        journal.append(expected, Bytes::from_static(b"r")).await.unwrap();
    }
    let damage = |error: StoreError| assert!(error.damaged, "{error:?}");
    damage(journal.read(9).next().await.unwrap().unwrap_err());

    let context = jetstream::new(client);
    let stream = context.get_stream(subjects::journal_stream(SHARD)).await.unwrap();
    assert!(stream.delete_message(3).await.is_err(), "single records cannot be removed");
    stream.purge().sequence(3).await.unwrap();
    damage(journal.read(0).next().await.unwrap().unwrap_err());
    assert_eq!(read_all(&journal, 2).await.len(), 3, "what is left can be read from a known place");
    stream.purge().await.unwrap();
    damage(journal.last().await.unwrap_err());
    context.delete_stream(subjects::journal_stream(SHARD)).await.unwrap();
    damage(journal.last().await.unwrap_err());
    // Its writer then reads the end, and hears that it is gone.
    assert!(matches!(journal.append(5, Bytes::from_static(b"r")).await, Err(AppendError::Conflict)));
}

#[tokio::test]
async fn a_stream_that_could_drop_records_is_refused_as_journal() {
    let fixture = Fixture::start().await;
    let client = fixture.client().await;
    let config = jetstream::stream::Config {
        name: subjects::journal_stream(SHARD),
        subjects: vec![subjects::journal_subject(SHARD)],
        max_messages: 10,
        ..Default::default()
    };
    jetstream::new(client.clone()).create_stream(config).await.unwrap();
    assert!(JetStreamJournal::open(&client, SHARD, 1, true).await.err().expect("it has a limit").damaged);
}

/// Of a process: threads that do not stand still are the error.
fn all_threads_stopped(pid: i32) -> Result<(), String> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        // The state follows the name, which stands in brackets: proc(5).
        let (_, after) = stat.rsplit_once(") ").unwrap();
        if !after.starts_with('T') {
            return Err(stat);
        }
    }
    Ok(())
}
