//! Who sets and takes away policies while clients work, over the management API, and looks whether they are there.
//!
//! **Invariant.** One after the other, each answered or unknown: what is in force is known but while one is being set.

use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ferrymq_checker::Outcome;
use ferrymq_checker::queues::Change;
use ferrymq_runtime::Rng;
use serde_json::{Value, json};

use super::limits::{RULED, noted};
use crate::world::World;

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest limit that is set.
const LARGEST: u64 = 40;

/// Works until the run stops.
pub(super) fn work(world: &Arc<World>, rng: &Rng) {
    while !world.stopping() {
        let Some(address) = world.api() else {
            world.pause(Duration::from_millis(5));
            continue;
        };
        let (name, overflow) = RULED[usize::try_from(rng.below(RULED.len() as u64)).unwrap_or(0)];
        let worked = match rng.below(4) {
            0 => look(world, address, name),
            1 => set(world, address, name, overflow, None),
            _ => set(world, address, name, overflow, Some(1 + rng.below(LARGEST))),
        };
        if let Err(error) = worked {
            world.broke("api", &error);
        }
        world.pause(Duration::from_millis(10 + rng.below(120)));
    }
}

fn set(
    world: &World,
    address: SocketAddr,
    name: &str,
    overflow: Option<&str>,
    limit: Option<u64>,
) -> Result<()> {
    let definition = limit.map(|limit| match overflow {
        Some(overflow) => json!({ "max-length": limit, "overflow": overflow }),
        None => json!({ "max-length": limit }),
    });
    let body = definition.as_ref().map(|definition| {
        json!({ "pattern": format!("^{name}$"), "apply-to": "queues", "definition": definition }).to_string()
    });
    let began = world.now();
    let method = if limit.is_some() { "PUT" } else { "DELETE" };
    let told = ask(world, address, method, name, body.as_deref().unwrap_or_default());
    let ended = world.now();
    let outcome = match &told {
        Ok((201 | 204, _)) => Outcome::Ok,
        // There was none to take away, and there is none.
        Ok((404, _)) => {
            let seen = Change { of: name.to_owned(), to: None, began, ended, outcome: Outcome::Ok };
            world.queues.lock().policies_seen.push(seen);
            return Ok(());
        }
        _ => Outcome::Info,
    };
    let mut notes = world.queues.lock();
    let (of, to) = (name.to_owned(), definition.map(|definition| definition.to_string()));
    notes.policies.push(Change { of: of.clone(), to, began, ended, outcome });
    notes.limits.push(Change { of, to: noted(limit, overflow.is_some()), began, ended, outcome });
    told.map(drop)
}

/// Notes whether a policy is there.
pub(super) fn look(world: &World, address: SocketAddr, name: &str) -> Result<()> {
    let began = world.now();
    let to = match ask(world, address, "GET", name, "")? {
        (200, text) => {
            let policy: Value = serde_json::from_str(&text)?;
            Some(policy["definition"].to_string())
        }
        (404, _) => None,
        (status, text) => return Err(Error::other(format!("{status} {text}"))),
    };
    let ended = world.now();
    let seen = Change { of: name.to_owned(), to, began, ended, outcome: Outcome::Ok };
    world.queues.lock().policies_seen.push(seen);
    Ok(())
}

/// Asks for something of a policy: the status, and what is said.
fn ask(world: &World, address: SocketAddr, method: &str, name: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let request = format!(
        "{method} /api/policies/%2F/{name} HTTP/1.1\r\nhost: {address}\r\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if world.is_dark() {
        return Err(Error::new(ErrorKind::ConnectionAborted, "the power is gone"));
    }
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (_, text) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    Ok((status.ok_or(ErrorKind::InvalidData)?, text.to_owned()))
}
