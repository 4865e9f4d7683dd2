//! What a node remembers of a journal, on disk.

use amphi_protocol::ids::{CommitIndex, ShardId};

use super::super::{Remembered, RememberedWriter};

fn at(index: u64) -> Remembered {
    Remembered { cluster_id: "c".to_owned(), shard: ShardId(0), index: CommitIndex(index), hash: format!("hash {index}") }
}

#[tokio::test]
async fn what_was_noted_last_is_read_back_after_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Remembered::read(folder.path(), ShardId(0)).unwrap(), None);
    let writer = RememberedWriter::start(folder.path().to_owned());
    for index in 1..=1000 {
        writer.note(at(index));
    }
    writer.flush().await.unwrap();
    assert_eq!(Remembered::read(folder.path(), ShardId(0)).unwrap(), Some(at(1000)));
}

#[tokio::test]
async fn memory_never_goes_back_and_shards_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let writer = RememberedWriter::start(folder.path().to_owned());
    writer.note(at(9));
    writer.flush().await.unwrap();
    writer.note(at(4));
    let other = Remembered { shard: ShardId(1), ..at(2) };
    writer.note(other.clone());
    writer.flush().await.unwrap();
    assert_eq!(Remembered::read(folder.path(), ShardId(0)).unwrap(), Some(at(9)));
    assert_eq!(Remembered::read(folder.path(), ShardId(1)).unwrap(), Some(other));
}

#[tokio::test]
async fn notes_are_written_without_a_flush_too() {
    let folder = tempfile::tempdir().unwrap();
    let writer = RememberedWriter::start(folder.path().to_owned());
    writer.note(at(7));
    super::eventually(|| async { Remembered::read(folder.path(), ShardId(0)).unwrap().filter(|r| *r == at(7)).ok_or("not yet") }).await;
}

#[tokio::test]
async fn a_write_that_fails_is_told_to_who_waits_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("later");
    let writer = RememberedWriter::start(data.clone());
    writer.note(at(1));
    assert!(writer.flush().await.is_err());
    std::fs::create_dir(&data).unwrap();
    writer.flush().await.unwrap();
    assert_eq!(Remembered::read(&data, ShardId(0)).unwrap(), Some(at(1)));
}

#[test]
fn a_damaged_memory_is_an_error_and_not_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(Remembered::path(folder.path(), ShardId(0)), "{").unwrap();
    assert!(Remembered::read(folder.path(), ShardId(0)).is_err());
}
