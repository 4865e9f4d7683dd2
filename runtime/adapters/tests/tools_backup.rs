//! Snapshots hold what was there, say when they no longer do, and come back whole.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use amphi_protocol::journal::{AttemptEnd, Outcome};
use serde_json::json;
use support::{PATIENCE, ToolBench};

fn error(end: &AttemptEnd) -> &str {
    assert_eq!(end.outcome, Outcome::Exit, "{end:?}");
    end.error.as_deref().unwrap()
}

fn text<'a>(end: &'a AttemptEnd, name: &str) -> &'a str {
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    end.outputs[name].as_str().unwrap()
}

fn has_sqlite() -> bool {
    Path::new("/usr/bin/sqlite3").exists() || Path::new("/usr/local/bin/sqlite3").exists()
}

/// Runs SQL in a process of its own.
fn sql(path: &Path, text: &str) -> String {
    let script = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1])\nfor s in sys.argv[2].split(';'):\n r=c.execute(s).fetchall()\nc.commit()\nprint(r)";
    let out = Command::new("python3").args(["-c", script, path.to_str().unwrap(), text]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A process that has a database open; it has run its SQL when this returns, and ends with the value.
struct Holder(Child);

impl Holder {
    fn new(path: &Path, text: &str) -> Self {
        let script = "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1],isolation_level=None)\nfor s in sys.argv[2].split(';'):\n c.execute(s).fetchall()\nprint('ready',flush=True)\nsys.stdin.readline()";
        let mut command = Command::new("python3");
        command.args(["-c", script, path.to_str().unwrap(), text]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Self(child)
    }

    /// Ends it without a chance to clean up.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.stdin.take().map(|mut input| input.write_all(b"\n"));
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_folder_comes_back_as_it_was_and_what_was_added_is_gone() {
    let bench = ToolBench::new();
    bench.write("data/a", "one");
    bench.write("data/sub/run.sh", "two");
    std::fs::create_dir(bench.workspace().join("data/empty")).unwrap();
    std::fs::set_permissions(bench.workspace().join("data/sub/run.sh"), std::fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", bench.workspace().join("data/link")).unwrap();
    let end = bench.run("backup.snapshot", json!({"path": "data", "to": "backups/data"})).await;
    assert_eq!((text(&end, "kind"), text(&end, "bytes"), text(&end, "entries")), ("folder", "6", "6"));
    assert_eq!(text(&bench.run("backup.verify", json!({"path": "backups/data"})).await, "hash"), text(&end, "hash"));
    bench.write("data/a", "changed");
    bench.write("data/sub/more", "added");
    std::fs::remove_dir(bench.workspace().join("data/empty")).unwrap();
    let back = bench.run("backup.restore", json!({"path": "data", "from": "backups/data"})).await;
    assert_eq!((text(&back, "hash"), text(&back, "replaced")), (text(&end, "hash"), "true"));
    assert_eq!(bench.names("data"), ["a", "empty", "link", "sub"]);
    assert_eq!((bench.read("data/a"), bench.names("data/sub")), ("one".to_owned(), vec!["run.sh".to_owned()]));
    let mode = bench.workspace().join("data/sub/run.sh").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
    assert_eq!(std::fs::read_link(bench.workspace().join("data/link")).unwrap(), Path::new("/etc/passwd"));
    // Where nothing is left to replace.
    std::fs::remove_dir_all(bench.workspace().join("data")).unwrap();
    let back = bench.run("backup.restore", json!({"path": "data", "from": "backups/data"})).await;
    assert_eq!((text(&back, "replaced"), bench.read("data/a").as_str()), ("false", "one"));
    assert_eq!(bench.names("."), ["backups", "data"]);
    assert_eq!(bench.names("backups"), ["data", "data.amphi-snapshot"]);
}

#[tokio::test]
async fn a_snapshot_that_was_touched_neither_verifies_nor_is_restored() {
    let bench = ToolBench::new();
    bench.write("data/a", "one");
    bench.write("file", "plain");
    for (path, to, touched) in [("data", "s1", "s1/a"), ("data", "s2", "s2/extra"), ("file", "s3", "s3")] {
        text(&bench.run("backup.snapshot", json!({"path": path, "to": to})).await, "hash");
        bench.write(touched, "touched");
        assert!(error(&bench.run("backup.verify", json!({"path": to})).await).contains("damaged"), "{to}");
        assert!(error(&bench.run("backup.restore", json!({"path": path, "from": to})).await).contains("damaged"), "{to}");
    }
    assert_eq!((bench.read("data/a"), bench.read("file")), ("one".to_owned(), "plain".to_owned()));
    assert!(error(&bench.run("backup.verify", json!({"path": "data"})).await).contains("is no snapshot"));
    assert_eq!(bench.names(".").len(), 8, "nothing half done is left: {:?}", bench.names("."));
}

#[tokio::test]
async fn a_snapshot_replaces_an_older_one_and_nothing_else() {
    let bench = ToolBench::new();
    bench.write("file", "one");
    bench.write("mine", "precious");
    text(&bench.run("backup.snapshot", json!({"path": "file", "to": "s"})).await, "hash");
    bench.write("file", "two");
    text(&bench.run("backup.snapshot", json!({"path": "file", "to": "s"})).await, "hash");
    assert_eq!(bench.read("s"), "two");
    std::os::unix::fs::symlink(bench.outside("other"), bench.workspace().join("way_out")).unwrap();
    for (path, to, said) in [
        ("file", "mine", "is no snapshot"),
        ("gone", "s", "is not there"),
        ("file", "file", "must not stand in each other"),
        (".", "s", "names no file"),
        ("way_out", "t", "symbolic link"),
        ("file", "way_out/x", "symbolic link"),
        ("file", "../x", "must stay under the workspace"),
        ("/etc/passwd", "t", "must stay under the workspace"),
    ] {
        let end = bench.run("backup.snapshot", json!({"path": path, "to": to})).await;
        assert!(error(&end).contains(said), "{path} {to}: {end:?}");
    }
    bench.write("folder/a", "1");
    let end = bench.run("backup.snapshot", json!({"path": "folder", "to": "folder/inside"})).await;
    assert!(error(&end).contains("must not stand in each other"));
    let end = bench.run("backup.restore", json!({"path": "folder", "from": "s"})).await;
    assert!(error(&end).contains("not both folders"));
    assert_eq!((bench.read("mine").as_str(), bench.read("s").as_str(), bench.names("folder").len()), ("precious", "two", 1));
    assert_eq!(std::fs::read_dir(bench.outside("other")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_online_snapshot_holds_what_is_only_in_the_log_and_nothing_uncommitted() {
    if !has_sqlite() {
        return; // the locked copy is what such a machine has; its tests follow
    }
    let bench = ToolBench::new();
    let path = bench.workspace().join("shop.db");
    sql(&path, "PRAGMA journal_mode=WAL;CREATE TABLE t(x)");
    let writer = Holder::new(&path, "PRAGMA wal_autocheckpoint=0;INSERT INTO t VALUES(1);BEGIN;INSERT INTO t VALUES(2)");
    assert!(bench.workspace().join("shop.db-wal").metadata().unwrap().len() > 0);
    let end = bench.run("backup.snapshot", json!({"path": "shop.db", "to": "b/s.db"})).await;
    assert_eq!((text(&end, "kind"), text(&end, "method"), text(&end, "integrity")), ("sqlite", "online", "ok"));
    assert_eq!(text(&bench.run("backup.verify", json!({"path": "b/s.db"})).await, "integrity"), "ok");
    assert_eq!(bench.names("b"), ["s.db", "s.db.amphi-snapshot"], "looking leaves nothing beside it");
    let copy = bench.outside("copy").join("s.db");
    std::fs::copy(bench.workspace().join("b/s.db"), &copy).unwrap();
    assert_eq!(sql(&copy, "SELECT x FROM t"), "[(1,)]");
    // In use: it is not replaced, and nothing of it moves.
    let before = bench.names(".");
    let cancelled = bench.start("backup.restore", json!({"path": "shop.db", "from": "b/s.db"}));
    let end = tokio::time::timeout(PATIENCE, cancelled.end).await.unwrap().unwrap();
    assert!(error(&end).contains("is in use"), "{end:?}");
    assert_eq!(bench.names("."), before);
    writer.kill();
    // A log of the old one lies there; it must not be played into the new one.
    assert!(bench.workspace().join("shop.db-wal").metadata().unwrap().len() > 0);
    sql(&copy, "DELETE FROM t");
    text(&bench.run("backup.restore", json!({"path": "shop.db", "from": "b/s.db"})).await, "hash");
    assert_eq!(bench.names("."), ["b", "shop.db"]);
    assert_eq!(sql(&path, "SELECT x FROM t"), "[(1,)]");
}

#[tokio::test]
async fn without_sqlite_a_database_is_copied_under_its_own_locks_or_refused() {
    let bench = ToolBench::new();
    let none = bench.outside("nothing").display().to_string();
    let snapshot = |path: &str, to: &str| bench.start_with_path("backup.snapshot", json!({"path": path, "to": to}), &none).end();
    let path = bench.workspace().join("shop.db");
    sql(&path, "CREATE TABLE t(x);INSERT INTO t VALUES(1)");
    // A writer that has changed no page of the file yet does not matter, a reader neither.
    let reader = Holder::new(&path, "BEGIN;SELECT * FROM t");
    let writer = Holder::new(&path, "BEGIN IMMEDIATE;INSERT INTO t VALUES(2)");
    let end = snapshot("shop.db", "s.db").await;
    assert_eq!((text(&end, "method"), text(&end, "integrity")), ("locked", "unchecked"));
    assert_eq!(sql(&bench.workspace().join("s.db"), "SELECT x FROM t"), "[(1,)]");
    // A writer at the file itself does.
    drop((reader, writer));
    let writer = Holder::new(&path, "BEGIN EXCLUSIVE;INSERT INTO t VALUES(2)");
    assert!(error(&snapshot("shop.db", "s2.db").await).contains("is writing to it"));
    drop(writer);
    // A transaction that died half written.
    let writer = Holder::new(
        &path,
        "PRAGMA cache_size=1;BEGIN;CREATE TABLE u AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000) SELECT i, hex(randomblob(50)) AS r FROM n",
    );
    writer.kill();
    assert!(path.with_extension("db-journal").metadata().unwrap().len() > 0);
    assert!(error(&snapshot("shop.db", "s2.db").await).contains("rolled back"));
    // A log that is in use.
    let log = bench.workspace().join("log.db");
    sql(&log, "PRAGMA journal_mode=WAL;CREATE TABLE t(x);INSERT INTO t VALUES(1)");
    let end = snapshot("log.db", "l.db").await;
    assert_eq!(text(&end, "method"), "locked", "closed in order, it is all in one file");
    let writer = Holder::new(&log, "INSERT INTO t VALUES(2)");
    assert!(error(&snapshot("log.db", "l2.db").await).contains("has it open"));
    writer.kill();
    assert!(error(&snapshot("log.db", "l2.db").await).contains("write-ahead log"));
    assert!(bench.names(".").iter().all(|name| !name.starts_with(".amphi")), "{:?}", bench.names("."));
}

#[tokio::test]
async fn a_damaged_database_makes_no_snapshot() {
    if !has_sqlite() {
        return; // nothing can be said about its inside
    }
    let bench = ToolBench::new();
    let path = bench.workspace().join("shop.db");
    sql(&path, "CREATE TABLE t(x);CREATE TABLE u(x);INSERT INTO t VALUES(1);INSERT INTO u VALUES(1)");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..8192].fill(0xEE);
    std::fs::write(&path, bytes).unwrap();
    let end = bench.run("backup.snapshot", json!({"path": "shop.db", "to": "s.db"})).await;
    assert!(error(&end).contains("damaged"), "{end:?}");
    assert_eq!(bench.names("."), ["shop.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_snapshot_leaves_nothing() {
    let bench = ToolBench::new();
    std::fs::create_dir(bench.workspace().join("big")).unwrap();
    // Sparse: quick to make, slow to read.
    let file = std::fs::File::create(bench.workspace().join("big/file")).unwrap();
    file.set_len(64 << 30).unwrap();
    let mut running = bench.start("backup.snapshot", json!({"path": "big/file", "to": "s/s"}));
    running.heard.recv().await.unwrap();
    running.cancel.cancel();
    assert_eq!(running.end().await.outcome, Outcome::Cancelled);
    assert!(bench.names(".") == ["big"] || bench.names("s").is_empty());
}
