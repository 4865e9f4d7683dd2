//! What a node and a guard say to each other over their socket.
//!
//! Node to guard: one [`Launch`], then single bytes, [`RENEW`] every second, [`TERMINATE`] and [`KILL`] at most once. Guard to node: lines,
//! read as [`GuardWord`]. End of file means that the other side is dead.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// "I am alive."
pub const RENEW: u8 = b'.';
/// "End it in order: TERM, then KILL."
pub const TERMINATE: u8 = b'T';
/// "End it now: KILL."
pub const KILL: u8 = b'K';
/// How often a node says that it is alive.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Silence after which a guard takes its node for dead.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Time between TERM and KILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// Most items and most bytes of one item that a guard accepts.
const ITEMS_MAX: u32 = 100_000;
const ITEM_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// A process tree to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The guard's record, see [`super::record`].
    pub record: PathBuf,
    /// The cgroup of the tree, if there is one.
    pub cgroup: Option<PathBuf>,
    /// Working folder.
    pub folder: PathBuf,
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// The whole environment, `name=value`.
    pub environment: Vec<OsString>,
}

impl Launch {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut items: Vec<&[u8]> = vec![
            self.record.as_os_str().as_bytes(),
            self.cgroup.as_ref().map_or(b"", |path| path.as_os_str().as_bytes()),
            self.folder.as_os_str().as_bytes(),
        ];
        items.extend(self.command.iter().map(|item| item.as_bytes()));
        items.extend(self.environment.iter().map(|item| item.as_bytes()));
        let mut bytes = Vec::new();
        for number in [self.command.len(), self.environment.len()] {
            bytes.extend((number as u32).to_le_bytes());
        }
        for item in items {
            bytes.extend((item.len() as u32).to_le_bytes());
            bytes.extend(item);
        }
        bytes
    }

    /// Reads one; an error if the bytes end early or name sizes beyond all limits.
    pub fn decode(from: &mut impl Read) -> io::Result<Self> {
        let (commands, variables) = (read_number(from, ITEMS_MAX)?, read_number(from, ITEMS_MAX)?);
        let record = read_item(from)?.into();
        let cgroup = read_item(from)?;
        Ok(Self {
            record,
            cgroup: (!cgroup.is_empty()).then(|| cgroup.into()),
            folder: read_item(from)?.into(),
            command: (0..commands).map(|_| read_item(from)).collect::<io::Result<_>>()?,
            environment: (0..variables).map(|_| read_item(from)).collect::<io::Result<_>>()?,
        })
    }
}

fn read_number(from: &mut impl Read, max: u32) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    let number = u32::from_le_bytes(bytes);
    if number > max { Err(io::Error::new(io::ErrorKind::InvalidData, "beyond the limit")) } else { Ok(number) }
}

fn read_item(from: &mut impl Read) -> io::Result<OsString> {
    let mut bytes = vec![0; read_number(from, ITEM_BYTES_MAX)? as usize];
    from.read_exact(&mut bytes)?;
    Ok(OsString::from_vec(bytes))
}

/// What a guard says, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardWord {
    /// The main process runs.
    Started {
        /// Its pid.
        pid: u32,
    },
    /// The tree is dead and this was the exit code of its main process.
    Exit {
        /// `128 + n` for signal n.
        code: i32,
    },
    /// The tree is dead; the node was silent for too long.
    Silence,
    /// Nothing was started.
    Failed {
        /// The system's error number, 0 without one.
        errno: i32,
        /// What was tried.
        what: String,
    },
}

impl GuardWord {
    /// As a line with its end.
    pub fn to_line(&self) -> String {
        match self {
            Self::Started { pid } => format!("started {pid}\n"),
            Self::Exit { code } => format!("exit {code}\n"),
            Self::Silence => "silence\n".to_owned(),
            Self::Failed { errno, what } => format!("failed {errno} {}\n", what.replace('\n', " ")),
        }
    }

    /// Reads a line; `None` for what no guard says.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "started" => Some(Self::Started { pid: rest.parse().ok()? }),
            "exit" => Some(Self::Exit { code: rest.parse().ok()? }),
            "silence" => Some(Self::Silence),
            "failed" => {
                let (errno, what) = rest.split_once(' ').unwrap_or((rest, ""));
                Some(Self::Failed { errno: errno.parse().ok()?, what: what.to_owned() })
            }
            _ => None,
        }
    }
}
