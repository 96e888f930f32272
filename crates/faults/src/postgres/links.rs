//! The links between a broker and its database, all of which pass through here and can be broken.
//!
//! ```text
//! broker --there--> [links] --there--> server      held: what comes is kept, and passed on later
//!        <--back---         <--back---             cut, snipped (the broker's side only), abandoned (and not noticed by the server)
//! ```
//! **Invariants.** What is held is passed on in order once it is released, also if the broker's side has gone by then: that is
//! how a statement comes late. A link that keeps the schema for its broker is told by what is said on it.
//!
//! Deliberately absent: knowing what the messages are.

use std::collections::{HashMap, HashSet};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::Context as _;
use ferrymq_runtime::{Rng, spawn_thread};
use parking_lot::{Condvar, Mutex};

/// Where a server, and whoever stands in for one, listens in its directory.
const SOCKET: &str = ".s.PGSQL.5432";
/// What a session says that keeps the schema for its broker.
const KEEPS: &[u8] = b"advisory_lock";
/// Longest message in which that is looked for.
const KEEPS_MAX: usize = 4096;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the broker to the server.
    There,
    /// From the server to the broker.
    Back,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next link.
    next: u64,
    /// Links below these numbers are held, by direction.
    held: [u64; 2],
    /// Links below this number have lost their broker.
    orphaned: u64,
    /// Links below this number are open at the server until they are released, whatever the broker does.
    abandoned: u64,
    /// Those that keep the schema; they are not held.
    keepers: HashSet<u64>,
    open: HashMap<u64, [UnixStream; 2]>,
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    server: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    /// One in so many messages is not passed on and its link is cut, by direction; 0: none.
    one_in: [AtomicU32; 2],
    cuts: AtomicU64,
    late: AtomicU64,
    rng: Rng,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Links {
    shared: Arc<Shared>,
    directory: PathBuf,
}

impl Links {
    /// Listens in `directory` for what is meant for the server in `server`.
    pub(crate) fn open(server: &Path, directory: &Path, seed: u64) -> anyhow::Result<Links> {
        let path = directory.join(SOCKET);
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        let shared = Arc::new(Shared {
            server: server.join(SOCKET),
            state: Mutex::default(),
            changed: Condvar::new(),
            one_in: Default::default(),
            cuts: AtomicU64::new(0),
            late: AtomicU64::new(0),
            rng: Rng::seeded(seed),
        });
        let accepting = shared.clone();
        spawn_thread("links", move || {
            for client in listener.incoming() {
                if accepting.state.lock().ended {
                    return;
                }
                // Without a server the broker's side is closed at once, as the server's own socket would be.
                let Ok(client) = client else { continue };
                let _ = accepting.link(client);
            }
        })?;
        Ok(Links { shared, directory: directory.to_owned() })
    }

    /// Cuts all, on both sides.
    pub(crate) fn cut(&self) {
        for [client, server] in self.shared.state.lock().open.values() {
            shut(client);
            shut(server);
        }
    }

    /// Passes nothing on in one direction on the links that there are, but for those that keep the schema.
    pub(crate) fn hold(&self, way: Way) {
        let mut state = self.shared.state.lock();
        state.held[way as usize] = state.next;
    }

    /// Passes on what was held, and lets the server know of what is over.
    pub(crate) fn release(&self) {
        let mut state = self.shared.state.lock();
        (state.held, state.abandoned) = ([0; 2], 0);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// The broker has ended, or loses now, all links that there are; what is held of them goes to the server all the same.
    pub(crate) fn orphan(&self) {
        let mut state = self.shared.state.lock();
        state.orphaned = state.next;
        let State { open, keepers, .. } = &*state;
        open.iter().filter(|(number, _)| !keepers.contains(number)).for_each(|(_, [client, _])| shut(client));
    }

    /// The broker loses all links, and the server does not notice until they are released.
    pub(crate) fn abandon(&self) {
        let mut state = self.shared.state.lock();
        (state.orphaned, state.abandoned) = (state.next, state.next);
        state.open.values().for_each(|[client, _]| shut(client));
    }

    /// Cuts one in so many messages' links, by direction; 0: none.
    pub(crate) fn cut_one_in(&self, there: u32, back: u32) {
        self.shared.one_in[Way::There as usize].store(there, Ordering::Relaxed);
        self.shared.one_in[Way::Back as usize].store(back, Ordering::Relaxed);
    }

    /// Links that were cut instead of passing a message on.
    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    /// Messages that came to the server after their broker had lost the link.
    pub(crate) fn late(&self) -> u64 {
        self.shared.late.load(Ordering::Relaxed)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.release();
        self.cut();
        // Wakes up who accepts.
        drop(UnixStream::connect(self.directory.join(SOCKET)));
    }
}

impl Shared {
    fn link(self: &Arc<Shared>, client: UnixStream) -> std::io::Result<()> {
        let server = UnixStream::connect(&self.server)?;
        let number = {
            let mut state = self.state.lock();
            let number = state.next;
            state.next += 1;
            state.open.insert(number, [client.try_clone()?, server.try_clone()?]);
            number
        };
        let (there, back) = (self.clone(), self.clone());
        let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
        spawn_thread("link there", move || {
            there.pass(number, Way::There, from_client, &to_server);
            there.wait_while(|state| number < state.abandoned);
            shut(&to_server);
        })?;
        spawn_thread("link back", move || {
            back.pass(number, Way::Back, server, &client);
            shut(&client);
            let mut state = back.state.lock();
            state.open.remove(&number);
            state.keepers.remove(&number);
        })?;
        Ok(())
    }

    fn pass(&self, number: u64, way: Way, mut from: UnixStream, mut to: &UnixStream) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer) else { return };
            let message = &buffer[..count];
            if count < KEEPS_MAX && message.windows(KEEPS.len()).any(|part| part == KEEPS) {
                self.state.lock().keepers.insert(number);
            }
            self.wait_while(|state| number < state.held[way as usize] && !state.keepers.contains(&number));
            if way == Way::There && number < self.state.lock().orphaned {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
            let one_in = self.one_in[way as usize].load(Ordering::Relaxed);
            if one_in > 0 && self.rng.below(one_in.into()) == 0 {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if to.write_all(message).is_err() {
                return;
            }
        }
    }

    fn wait_while(&self, what: impl Fn(&State) -> bool) {
        let mut state = self.state.lock();
        while what(&state) {
            self.changed.wait(&mut state);
        }
    }
}

/// Ends both directions; whoever reads sees the end.
fn shut(stream: &UnixStream) {
    // It may have ended by itself.
    let _ = stream.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links to a listener that stands for the server, a client's end and the server's.
    fn linked(directory: &Path) -> (Links, UnixStream, UnixStream) {
        let (server, link) = (directory.join("server"), directory.join("link"));
        std::fs::create_dir(&server).unwrap();
        std::fs::create_dir(&link).unwrap();
        let listener = UnixListener::bind(server.join(SOCKET)).unwrap();
        let links = Links::open(&server, &link, 1).unwrap();
        let client = UnixStream::connect(link.join(SOCKET)).unwrap();
        (links, client, listener.accept().unwrap().0)
    }

    fn text(stream: &mut UnixStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn what_was_held_comes_late_although_its_sender_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (links, mut client, mut server) = linked(directory.path());
        links.hold(Way::There);
        client.write_all(b"statement").unwrap();
        server.write_all(b"early").unwrap();
        let mut early = [0; 5];
        client.read_exact(&mut early).unwrap();
        // What is read is held; what lies in the socket still is read before the end is.
        links.orphan();
        assert_eq!(text(&mut client), "");
        links.release();
        assert_eq!(text(&mut server), "statement");
        assert_eq!(links.late(), 1);
    }

    #[test]
    fn a_cut_ends_both_sides_and_one_in_one_message_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let (links, mut client, mut server) = linked(directory.path());
        links.cut_one_in(1, 0);
        client.write_all(b"statement").unwrap();
        assert_eq!((text(&mut server), text(&mut client)), (String::new(), String::new()));
        assert_eq!(links.cuts(), 1);
        drop(links);
    }
}
