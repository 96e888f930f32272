//! What a listener is called and what its clients are told.
//!
//! Networks see a broker under different addresses: a container's neighbours by one name, the world by another.
//! Each listener therefore has an address of its own to advertise.
//!
//! **Invariant.** A client is told the address of the listener that it came through, whatever it asks.

use std::fmt;
use std::net::SocketAddr;

/// The listener of a broker that has one, as Kafka calls it.
pub const DEFAULT_LISTENER: &str = "PLAINTEXT";

/// A host and a port. Shown as a URL has it: an IPv6 address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// An address or a name, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// One place where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name, in capitals.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its clients are told to connect.
    pub advertised: Endpoint,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_as_in_a_url() {
        let shown = |host: &str| Endpoint { host: host.to_owned(), port: 9092 }.to_string();
        assert_eq!(shown("mq.example.org"), "mq.example.org:9092");
        assert_eq!(shown("::1"), "[::1]:9092");
    }
}
