//! Tells all guards every second that this process is alive.
//!
//! A thread of its own: an async runtime that is busy for five seconds is no reason to kill everybody's work. A process that is
//! stopped or dead renews nothing.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::launch::{KILL, RENEW, RENEW_EVERY, TERMINATE};

/// The sockets of all guards of an engine.
#[derive(Debug)]
pub struct Keeper {
    sockets: Mutex<Sockets>,
}

#[derive(Debug, Default)]
struct Sockets {
    next: u64,
    open: BTreeMap<u64, UnixStream>,
}

impl Keeper {
    /// Starts the thread; it ends when the last handle is dropped.
    pub fn start() -> io::Result<Arc<Self>> {
        let keeper = Arc::new(Self { sockets: Mutex::default() });
        let weak = Arc::downgrade(&keeper);
        std::thread::Builder::new().name("guard-keeper".to_owned()).spawn(move || {
            while let Some(keeper) = Weak::upgrade(&weak) {
                keeper.renew_all();
                drop(keeper);
                std::thread::sleep(RENEW_EVERY);
            }
        })?;
        Ok(keeper)
    }

    /// Renews `socket` (non-blocking) until the returned value is dropped.
    pub fn keep(self: &Arc<Self>, socket: UnixStream) -> Kept {
        let mut sockets = self.lock();
        sockets.next += 1;
        let id = sockets.next;
        sockets.open.insert(id, socket);
        Kept { keeper: Arc::clone(self), id }
    }

    fn renew_all(&self) {
        for socket in self.lock().open.values_mut() {
            // Full: the guard has plenty of unread renewals. Broken: its reader finds out.
            let _ = socket.write(&[RENEW]);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard that is being renewed; dropped, its node falls silent.
#[derive(Debug)]
pub struct Kept {
    keeper: Arc<Keeper>,
    id: u64,
}

impl Kept {
    /// Asks the guard for an orderly end.
    pub fn terminate(&self) -> io::Result<()> {
        self.say(TERMINATE)
    }

    /// Asks the guard for an end at once.
    pub fn kill(&self) -> io::Result<()> {
        self.say(KILL)
    }

    fn say(&self, word: u8) -> io::Result<()> {
        match self.keeper.lock().open.get_mut(&self.id) {
            Some(socket) => socket.write_all(&[word]),
            None => Ok(()),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.lock().open.remove(&self.id);
    }
}
