//! SQLite databases: known by their header, copied so that the copy is a database that existed at one moment.
//!
//! Where the node has the `sqlite3` program, it makes an online backup: writers go on. Where it has not, the file is copied under the
//! locks that SQLite itself would take, which is possible only while nothing of the database stands beside its file: no write-ahead
//! log in use and no transaction to roll back. Those are refused with a word about `sqlite3`, never copied in the hope of the best.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::child::Child;
use super::copy::{Pulse, read_through};
use super::inside::{Spot, real};
use super::{Context, ToolError};

/// What a database file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// How long a lock that somebody else holds is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_EVERY: Duration = Duration::from_millis(50);
const PENDING_BYTE: libc::off_t = 0x4000_0000;
const RESERVED_BYTE: libc::off_t = PENDING_BYTE + 1;
const SHARED_FIRST: libc::off_t = PENDING_BYTE + 2;
const SHARED_SIZE: libc::off_t = 510;
/// What SQLite may keep beside a database.
const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// True for a database file. An empty file, which SQLite also takes for a database, is none here.
pub(super) fn is_database(spot: &Spot) -> io::Result<bool> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(spot.path())?;
    let mut head = [0u8; 16];
    match file.read_exact(&mut head) {
        Ok(()) => Ok(head == *MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Copies a database to a new name. Returns how it was done: `online` or `locked`.
pub(super) async fn copy_database(context: &Context, from: &Spot, to: &Spot) -> Result<&'static str, ToolError> {
    let Some(program) = context.launcher.program("sqlite3") else {
        let (from, to, mut pulse) = (from.beside(&from.name)?, to.beside(&to.name)?, Pulse::new(context));
        let copy = move || copy_locked(&from, &to, &mut pulse);
        tokio::task::spawn_blocking(copy).await.map_err(|error| ToolError::failed(format!("the copy broke: {error}")))??;
        return Ok("locked");
    };
    let name = to.name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)));
    let name = name.expect("a temporary name needs no quotes");
    let source = from.real()?.into_os_string();
    let mut arguments: Vec<std::ffi::OsString> = ["-batch", "-bail", "-init", "/dev/null", "-cmd", ".timeout 10000"].map(Into::into).into();
    arguments.extend([source, format!(".backup main {name}").into()]);
    let ended = context.child(Child { program, arguments, folder: real(&to.folder)?, environment: Vec::new() }).await?;
    // Some versions of the program report a failed backup in words only.
    if ended.code != 0 || !ended.stderr.is_empty() || to.look()?.is_none() {
        return Err(ToolError::failed(format!("sqlite3 could not back the database up (exit code {}): {}", ended.code, ended.stderr)));
    }
    // A secret database stays one.
    let mode = from.path().symlink_metadata()?.mode() & 0o777;
    std::fs::set_permissions(to.path(), Permissions::from_mode(mode))?;
    Ok("online")
}

/// Checks a database file that nobody writes to. `ok`, or `unchecked` where the node has no `sqlite3`; damage is an error.
pub(super) async fn check_integrity(context: &Context, spot: &Spot) -> Result<&'static str, ToolError> {
    let Some(program) = context.launcher.program("sqlite3") else { return Ok("unchecked") };
    // Immutable: neither locks nor files beside it.
    let uri = format!("file:{}?immutable=1", percent_encoded(&spot.real()?));
    let words = ["-batch", "-bail", "-init", "/dev/null", &uri, "PRAGMA integrity_check(10)"];
    let arguments = words.iter().map(Into::into).collect();
    let ended = context.child(Child { program, arguments, folder: real(&spot.folder)?, environment: Vec::new() }).await?;
    if ended.code == 0 && ended.stdout.trim() == "ok" {
        return Ok("ok");
    }
    let said = format!("{} {}", ended.stdout.trim(), ended.stderr);
    Err(ToolError::failed(format!("the database is damaged: {}", said.trim().chars().take(1000).collect::<String>())))
}

fn percent_encoded(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let encode = |b: &u8| if b.is_ascii_alphanumeric() || b"/._-".contains(b) { char::from(*b).to_string() } else { format!("%{b:02X}") };
    bytes.iter().map(encode).collect()
}

fn copy_locked(from: &Spot, to: &Spot, pulse: &mut Pulse) -> Result<(), ToolError> {
    let database = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(from.path())?;
    let mut head = [0u8; 20];
    (&database).read_exact(&mut head)?;
    let refused =
        |why: &str| Err(ToolError::failed(format!("the database cannot be copied without `sqlite3`, which this node has not: {why}")));
    let uses_log = head[18] == 2 || head[19] == 2;
    let is_locked = if uses_log { lock_alone(&database, pulse)? } else { lock_for_reading(&database, pulse)? };
    if !is_locked {
        return refused("somebody has it open or is writing to it");
    }
    let is_in_use = |suffix: &str| -> Result<bool, ToolError> { Ok(from.with_suffix(suffix)?.look()?.is_some_and(|file| file.len() > 0)) };
    if is_in_use("-wal")? {
        return refused("a part of it is in its write-ahead log");
    }
    // With a writer at work that has changed no page yet, the journal is the writer's. Without one, somebody died.
    if is_in_use("-journal")? && starts_hot(&from.with_suffix("-journal")?)? && !is_reserved(&database)? {
        return refused("it holds a transaction that must be rolled back");
    }
    read_through(from, Some(to), pulse)?;
    drop(database); // the locks go with it
    Ok(())
}

/// A journal that was ended in order begins with zeros.
fn starts_hot(journal: &Spot) -> io::Result<bool> {
    let mut first = [0u8; 1];
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(journal.path())?;
    Ok(file.read(&mut first)? == 1 && first[0] != 0)
}

/// What SQLite calls SHARED: others read, nobody changes the file. False if it was not to be had.
fn lock_for_reading(database: &File, pulse: &mut Pulse) -> Result<bool, ToolError> {
    let take = || -> io::Result<bool> {
        if !lock(database, libc::F_RDLCK, PENDING_BYTE, 1)? {
            return Ok(false);
        }
        let is_shared = lock(database, libc::F_RDLCK, SHARED_FIRST, SHARED_SIZE)?;
        lock(database, libc::F_UNLCK, PENDING_BYTE, 1)?;
        Ok(is_shared)
    };
    wait_for(take, pulse)
}

/// What SQLite calls EXCLUSIVE: nobody reads or writes, nobody with a write-ahead log has it open.
fn lock_alone(database: &File, pulse: &mut Pulse) -> Result<bool, ToolError> {
    wait_for(|| lock(database, libc::F_WRLCK, PENDING_BYTE, SHARED_FIRST + SHARED_SIZE - PENDING_BYTE), pulse)
}

fn wait_for(mut take: impl FnMut() -> io::Result<bool>, pulse: &mut Pulse) -> Result<bool, ToolError> {
    let began = Instant::now();
    while !take()? {
        if began.elapsed() >= LOCK_PATIENCE {
            return Ok(false);
        }
        pulse.beat()?;
        std::thread::sleep(LOCK_EVERY);
    }
    Ok(true)
}

fn region(kind: libc::c_int, start: libc::off_t, length: libc::off_t) -> libc::flock {
    libc::flock { l_type: kind as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: start, l_len: length, l_pid: 0 }
}

/// Open file description locks: they meet SQLite's own, and belong to this open file and not to the whole process.
fn lock(file: &File, kind: libc::c_int, start: libc::off_t, length: libc::off_t) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&region(kind, start, length))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn is_reserved(file: &File) -> io::Result<bool> {
    let mut asked = region(libc::F_WRLCK, RESERVED_BYTE, 1);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked))?;
    Ok(libc::c_int::from(asked.l_type) != libc::F_UNLCK)
}

/// A database about to be replaced: locked, and what stood beside it moved aside. A log or journal of the old one would be played
/// into the new one and damage it.
pub(super) struct Displaced {
    /// Its lock; from then on nobody begins to use the old one.
    _database: File,
    aside: Vec<(Spot, Spot)>,
}

impl Displaced {
    /// Fails if somebody uses it, as far as SQLite shows that: one that uses no write-ahead log and is idle holds no lock.
    pub fn take(spot: &Spot, pulse: &mut Pulse) -> Result<Self, ToolError> {
        let database = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(spot.path())?;
        if !lock_alone(&database, pulse)? {
            return Err(ToolError::failed("the database that would be replaced is in use: stop what uses it first"));
        }
        let mut displaced = Self { _database: database, aside: Vec::new() };
        for suffix in SIDE_FILES {
            let beside = spot.with_suffix(suffix)?;
            if beside.look()?.is_some() {
                let aside = spot.temporary()?;
                if let Err(error) = std::fs::rename(beside.path(), aside.path()) {
                    displaced.put_back();
                    return Err(error.into());
                }
                displaced.aside.push((beside, aside));
            }
        }
        Ok(displaced)
    }

    /// The old one stays.
    pub fn put_back(&mut self) {
        for (beside, aside) in self.aside.drain(..) {
            if let Err(error) = std::fs::rename(aside.path(), beside.path()) {
                tracing::error!(file = %aside.path().display(), %error, "a part of a database could not be put back");
            }
        }
    }

    /// The new one is in place.
    pub fn discard(self) -> io::Result<()> {
        self.aside.iter().try_for_each(|(_, aside)| aside.remove())
    }
}
