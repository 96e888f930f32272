//! A proxy before the database that cuts connections at the worst moments.
//!
//! ```text
//! store --> proxy --> server       cut before the statement gets there, or after it was done and before its reply
//! ```
//! Deliberately absent: knowing what the messages are.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use ferrymq_runtime::{Rng, TaskKind, Tasks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

/// What the proxy does to one connection in so many messages.
pub(crate) struct Cuts {
    /// One in so many of a client's messages is not passed on, and its connection is cut. 0: none.
    pub(crate) before: AtomicU32,
    /// One in so many of the server's is not passed on, and its connection is cut. 0: none.
    pub(crate) after: AtomicU32,
    /// Whether the server is not to notice: its side of what ends is kept open.
    pub(crate) unnoticed: AtomicBool,
    kept: Mutex<Vec<(OwnedReadHalf, OwnedWriteHalf)>>,
    /// Is told of each.
    made: Sender<()>,
}

impl Cuts {
    /// None yet.
    pub(crate) fn none(made: Sender<()>) -> Cuts {
        Cuts {
            before: AtomicU32::new(0),
            after: AtomicU32::new(0),
            unnoticed: AtomicBool::new(false),
            kept: Mutex::default(),
            made,
        }
    }

    fn falls(&self, one_in: &AtomicU32, rng: &Rng) -> bool {
        let one_in = one_in.load(Ordering::Relaxed);
        let falls = one_in > 0 && rng.below(one_in.into()) == 0;
        if falls {
            // After the test nobody counts them.
            let _ = self.made.send(());
        }
        falls
    }
}

/// Listens in a directory of its own as a server would, and passes on to the real one.
pub(crate) fn proxy(server: &Path, directory: &Path, cuts: Arc<Cuts>, rng: Rng, tasks: Tasks) {
    let name = ".s.PGSQL.5432";
    let (server, listener) = (server.join(name), UnixListener::bind(directory.join(name)).unwrap());
    tasks.clone().spawn(TaskKind::Background, "proxy", async move {
        while let Ok((client, _)) = listener.accept().await {
            let (cuts, rng, server) = (cuts.clone(), rng.clone(), server.clone());
            tasks.spawn(TaskKind::Connection, "proxy", async move {
                let Ok(server) = UnixStream::connect(server).await else { return };
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                {
                    let there = pass(&mut from_client, &mut to_server, &cuts, &cuts.before, &rng);
                    let back = pass(&mut from_server, &mut to_client, &cuts, &cuts.after, &rng);
                    // Whichever ends first ends both: the other's halves are dropped.
                    tokio::select! { () = there => {}, () = back => {} }
                }
                if cuts.unnoticed.load(Ordering::Relaxed) {
                    cuts.kept.lock().unwrap().push((from_server, to_server));
                }
            });
        }
    });
}

async fn pass(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, cuts: &Cuts, one_in: &AtomicU32, rng: &Rng) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        if cuts.falls(one_in, rng) || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
