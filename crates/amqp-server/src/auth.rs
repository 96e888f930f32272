//! Logging in: PLAIN and AMQPLAIN.
//!
//! There are no users yet. `guest` with the password `guest` is let in from this machine, as in a fresh
//! RabbitMQ; everybody else is refused.
//!
//! **Invariants.** What is refused is not told why. A password is never logged.
//!
//! Deliberately absent: users, EXTERNAL, tokens.

use std::net::IpAddr;

use ferrymq_amqp_codec::{Table, ValueRef};

/// The mechanisms that are offered, as the wire has them.
pub(crate) const MECHANISMS: &[u8] = b"PLAIN AMQPLAIN";
/// The only user.
pub(crate) const USER: &[u8] = b"guest";
const PASSWORD: &[u8] = b"guest";

/// What became of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    /// Let in.
    Accepted,
    /// Not this name, password or address.
    Refused,
    /// The response is not what the mechanism asks for.
    Malformed,
    /// There is no such mechanism.
    Unknown,
}

/// Judges a login from `peer`.
pub(crate) fn login(mechanism: &[u8], response: &[u8], peer: IpAddr) -> Login {
    let pair = match mechanism {
        b"PLAIN" => plain(response),
        b"AMQPLAIN" => amqplain(response),
        _ => return Login::Unknown,
    };
    match pair {
        None => Login::Malformed,
        Some((USER, PASSWORD)) if peer.to_canonical().is_loopback() => Login::Accepted,
        Some(_) => Login::Refused,
    }
}

/// `identity NUL user NUL password`; the identity is ignored.
fn plain(response: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = response.splitn(3, |byte| *byte == 0);
    let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    (!password.contains(&0)).then_some((user, password))
}

/// The entries `LOGIN` and `PASSWORD` of a table without its length.
fn amqplain(response: &[u8]) -> Option<(&[u8], &[u8])> {
    let table = Table::parse(response).ok()?;
    match (table.get(b"LOGIN"), table.get(b"PASSWORD")) {
        (
            Some(ValueRef::LongString(user) | ValueRef::Binary(user)),
            Some(ValueRef::LongString(password) | ValueRef::Binary(password)),
        ) => Some((user, password)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrymq_amqp_codec::TableBuilder;

    #[test]
    fn guest_is_let_in_from_here_only() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        let there: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert_eq!(login(b"PLAIN", b"\0guest\0guest", here), Login::Accepted);
        assert_eq!(login(b"PLAIN", b"who\0guest\0guest", mapped), Login::Accepted);
        assert_eq!(login(b"PLAIN", b"\0guest\0guest", there), Login::Refused);
        assert_eq!(login(b"PLAIN", b"\0guest\0guess", here), Login::Refused);
        assert_eq!(login(b"PLAIN", b"\0guest\0guest\0", here), Login::Malformed);
        assert_eq!(login(b"PLAIN", b"guest", here), Login::Malformed);
        assert_eq!(login(b"EXTERNAL", b"", here), Login::Unknown);
        let mut table = TableBuilder::new();
        table.push(b"LOGIN", ValueRef::LongString(b"guest")).unwrap();
        assert_eq!(login(b"AMQPLAIN", table.as_table().as_bytes(), here), Login::Malformed);
        table.push(b"PASSWORD", ValueRef::LongString(b"guest")).unwrap();
        assert_eq!(login(b"AMQPLAIN", table.as_table().as_bytes(), here), Login::Accepted);
        assert_eq!(login(b"AMQPLAIN", b"\xff\xff", here), Login::Malformed);
    }
}
