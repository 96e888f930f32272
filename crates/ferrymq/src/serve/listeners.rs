//! Where Kafka clients connect: listeners by name, each with an address to advertise.
//!
//! **Invariants.** What no client could connect to is never advertised. Nothing is listened on that other
//! machines can reach unless that was asked for, also if a name turns out to mean such an address.
//!
//! Deliberately absent: TLS and SASL; every listener is plain text.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use ferrymq_kafka_server::listener::DEFAULT_LISTENER;
use ferrymq_kafka_server::{Endpoint, Listener};
use serde::{Deserialize, Deserializer};
use tokio::net::{TcpListener, lookup_host};

/// Where a broker listens that was told nothing.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:9092";

/// One listener as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenerSettings {
    pub(crate) name: String,
    pub(crate) listen: Endpoint,
    /// `None`: what is listened on.
    pub(crate) advertise: Option<Endpoint>,
}

/// The file's forms: one text, a list of texts, or a table by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum InFile {
    One(String),
    Many(Vec<String>),
    Named(BTreeMap<String, String>),
}

/// Reads any of the file's forms as the flags' form.
pub(crate) fn from_file<'de, D: Deserializer<'de>>(file: D) -> Result<Vec<String>, D::Error> {
    Ok(match InFile::deserialize(file)? {
        InFile::One(text) => text.split(',').map(str::to_owned).collect(),
        InFile::Many(texts) => texts,
        InFile::Named(table) => table.into_iter().map(|(name, text)| format!("{name}={text}")).collect(),
    })
}

/// Puts the two settings together and checks them.
pub(crate) fn check(
    listen: &[String],
    advertise: &[String],
    allow_remote: bool,
    problems: &mut Vec<String>,
) -> Vec<ListenerSettings> {
    let default = [DEFAULT_ENDPOINT.to_owned()];
    let listen = if listen.is_empty() { &default } else { listen };
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    for (name, listen) in parse_all("kafka-listen", listen, problems) {
        if let Some(other) = listeners.iter().find(|other| listen.port != 0 && other.listen == listen) {
            problems.push(format!("kafka-listen: {} and {name} both listen on {listen}", other.name));
        }
        if !allow_remote && !is_here(&listen.host) {
            problems.push(can_be_reached("kafka-listen", &listen));
        }
        listeners.push(ListenerSettings { name, listen, advertise: None });
    }
    for (name, endpoint) in parse_all("kafka-advertise", advertise, problems) {
        if endpoint.port == 0 || is_everywhere(&endpoint.host) {
            problems.push(format!("kafka-advertise: no client can connect to {endpoint}"));
        }
        match listeners.iter_mut().find(|listener| listener.name == name) {
            Some(listener) => listener.advertise = Some(endpoint),
            None => problems.push(format!(
                "kafka-advertise: no listener is named {name}; write NAME={endpoint} with the name of one: {}",
                listeners.iter().map(|listener| &*listener.name).collect::<Vec<_>>().join(", ")
            )),
        }
    }
    for listener in &listeners {
        if listener.advertise.is_none() && is_everywhere(&listener.listen.host) {
            problems.push(no_address(listener));
        }
    }
    listeners
}

/// Other machines can connect, and nobody said that they may.
pub(crate) fn can_be_reached(setting: &str, address: &impl std::fmt::Display) -> String {
    format!(
        "{setting} {address} can be reached by other machines, and there are no users or passwords yet: \
         add --allow-remote if that is meant, or listen on 127.0.0.1"
    )
}

fn no_address(ListenerSettings { name, listen, .. }: &ListenerSettings) -> String {
    format!(
        "kafka-listen {listen} is every address of this machine, and none that clients can be told: add \
         --kafka-advertise {name}=HOST:{port} with the host that they know it by",
        port = if listen.port == 0 { 9092 } else { listen.port }
    )
}

/// Reads `[NAME=]HOST:PORT` texts; what cannot be used becomes a problem.
fn parse_all(setting: &str, texts: &[String], problems: &mut Vec<String>) -> Vec<(String, Endpoint)> {
    let mut parsed: Vec<(String, Endpoint)> = Vec::new();
    for text in texts.iter().map(|text| text.trim()) {
        let (name, rest) = text.split_once('=').unwrap_or((DEFAULT_LISTENER, text));
        let name = name.trim().to_ascii_uppercase();
        let Some(endpoint) = parse_endpoint(rest.trim()) else {
            problems.push(format!(
                "{setting} {text:?} is not [NAME=]HOST:PORT (an IPv6 address stands in brackets)"
            ));
            continue;
        };
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(is_name_char) {
            problems.push(format!("{setting} {text:?}: a name consists of letters, digits, _ and -"));
        } else if parsed.iter().any(|(other, _)| *other == name) {
            problems
                .push(format!("{setting} names {name} twice: write NAME=HOST:PORT, each with its own name"));
        } else {
            parsed.push((name, endpoint));
        }
    }
    parsed
}

/// `host:port`, also `[::1]:9092`.
pub(super) fn parse_endpoint(text: &str) -> Option<Endpoint> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
        None => {
            let is_host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            (!host.is_empty() && host.chars().all(is_host_char)).then(|| host.to_owned())?
        }
    };
    Some(Endpoint { host, port })
}

/// Whether only this machine can reach a host. A name may mean anything, but for `localhost`.
pub(super) fn is_here(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

fn is_everywhere(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified())
}

/// Binds all of them; what listens is what could be told to clients.
pub(crate) async fn bind(
    wanted: &[ListenerSettings],
    allow_remote: bool,
) -> anyhow::Result<Vec<(TcpListener, Arc<Listener>)>> {
    let mut bound = Vec::with_capacity(wanted.len());
    for listener in wanted {
        let ListenerSettings { name, listen, advertise } = listener;
        let socket = bind_one("kafka-listen", listen, allow_remote)
            .await
            .with_context(|| format!("could not listen on {listen} for Kafka clients ({name})"))?;
        let address = socket.local_addr()?;
        // A name that means every address was not seen through when the settings were checked.
        if advertise.is_none() && address.ip().to_canonical().is_unspecified() {
            anyhow::bail!(no_address(listener));
        }
        let own = || Endpoint { host: listen.host.clone(), port: address.port() };
        let advertised = advertise.clone().unwrap_or_else(own);
        bound.push((socket, Arc::new(Listener { name: name.clone(), address, advertised })));
    }
    Ok(bound)
}

/// Listens on the first address of a host that can be listened on.
pub(super) async fn bind_one(
    setting: &str,
    listen: &Endpoint,
    allow_remote: bool,
) -> anyhow::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = lookup_host((listen.host.as_str(), listen.port)).await?.collect();
    let is_allowed = |address: &SocketAddr| allow_remote || address.ip().to_canonical().is_loopback();
    if let Some(address) = addresses.iter().find(|address| !is_allowed(address)) {
        anyhow::bail!(can_be_reached(setting, address));
    }
    Ok(TcpListener::bind(&addresses[..]).await?)
}

/// Says where clients connect, and warns of what other machines can reach.
pub(crate) fn announce(listeners: &[Arc<Listener>]) {
    for Listener { name, address, advertised } in listeners.iter().map(|listener| &**listener) {
        tracing::info!(listener = %name, listen = %address, %advertised, "Kafka clients connect here");
        if !address.ip().to_canonical().is_loopback() {
            tracing::warn!(
                listener = %name,
                listen = %address,
                "other machines can connect, and there are no users or passwords yet: whoever can, can do everything"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn checked(listen: &[&str], advertise: &[&str], remote: bool) -> Result<Vec<ListenerSettings>, String> {
        let mut problems = Vec::new();
        let listeners = check(&texts(listen), &texts(advertise), remote, &mut problems);
        if problems.is_empty() { Ok(listeners) } else { Err(problems.join("\n")) }
    }

    #[test]
    fn one_listener_needs_no_name() {
        let told = checked(&[], &[], false).unwrap();
        assert_eq!(
            (told[0].name.as_str(), told[0].listen.to_string()),
            ("PLAINTEXT", "127.0.0.1:9092".into())
        );
        let told = checked(&["[::1]:9092"], &["mq.example.org:1"], false).unwrap();
        assert_eq!(told[0].listen.to_string(), "[::1]:9092");
        assert_eq!(told[0].advertise.as_ref().unwrap().to_string(), "mq.example.org:1");
        assert!(checked(&["localhost:9092"], &[], false).is_ok());
    }

    #[test]
    fn several_have_a_name_and_an_address_to_advertise_each() {
        let listen = ["internal=0.0.0.0:9092", " EXTERNAL = [::]:9094", "LOCAL=127.0.0.1:9093"];
        let told =
            checked(&listen, &["EXTERNAL=mq.example.org:19094", "INTERNAL=broker:9092"], true).unwrap();
        let told: Vec<_> = told
            .iter()
            .map(|one| (&*one.name, one.listen.to_string(), one.advertise.as_ref().map(Endpoint::to_string)))
            .collect();
        assert_eq!(
            told,
            [
                ("INTERNAL", "0.0.0.0:9092".to_owned(), Some("broker:9092".to_owned())),
                ("EXTERNAL", "[::]:9094".to_owned(), Some("mq.example.org:19094".to_owned())),
                ("LOCAL", "127.0.0.1:9093".to_owned(), None),
            ]
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_says_what_to_do() {
        let cases: &[(&[&str], &[&str], bool, &str)] = &[
            (&["127.0.0.1:1", "127.0.0.1:2"], &[], false, "names PLAINTEXT twice: write NAME=HOST:PORT"),
            (&["A=127.0.0.1:1", "a=127.0.0.1:2"], &[], false, "names A twice"),
            (&["A=127.0.0.1:1", "B=127.0.0.1:1"], &[], false, "A and B both listen on 127.0.0.1:1"),
            (&["A=127.0.0.1:1"], &["mq:1"], false, "no listener is named PLAINTEXT; write NAME=mq:1 with"),
            (&["A=127.0.0.1:1"], &["A=mq:1", "A=mq:2"], false, "kafka-advertise names A twice"),
            (&["0.0.0.0:9092"], &[], true, "add --kafka-advertise PLAINTEXT=HOST:9092"),
            (&["A=[::]:0"], &[], true, "add --kafka-advertise A=HOST:9092"),
            (&["A=[::ffff:0.0.0.0]:1"], &[], true, "add --kafka-advertise A=HOST:1"),
            (&["0.0.0.0:9092"], &["mq:9092"], false, "--allow-remote"),
            (&["mq:9092"], &[], false, "mq:9092 can be reached by other machines"),
            (&["127.0.0.1:1"], &["0.0.0.0:1"], false, "no client can connect to 0.0.0.0:1"),
            (&["127.0.0.1:1"], &["mq:0"], false, "no client can connect to mq:0"),
            (&["9092"], &[], false, "is not [NAME=]HOST:PORT"),
            (&["::1:9092"], &[], false, "an IPv6 address stands in brackets"),
            (&["A://127.0.0.1:9092"], &[], false, "is not [NAME=]HOST:PORT"),
            (&["A B=127.0.0.1:9092"], &[], false, "letters, digits"),
            (&[""], &[], false, "is not [NAME=]HOST:PORT"),
            (&["127.0.0.1:65536"], &[], false, "is not [NAME=]HOST:PORT"),
        ];
        for (listen, advertise, remote, text) in cases {
            let told = checked(listen, advertise, *remote).unwrap_err();
            assert!(told.contains(text), "{listen:?} {advertise:?}: {told}");
        }
    }

    #[tokio::test]
    async fn what_listens_is_what_is_told() {
        let wanted = checked(&["A=127.0.0.1:0", "B=localhost:0"], &["A=mq.example.org:7"], false).unwrap();
        let bound = bind(&wanted, false).await.unwrap();
        let (a, b) = (&bound[0].1, &bound[1].1);
        assert_eq!(
            (a.address.ip().is_loopback(), a.advertised.to_string()),
            (true, "mq.example.org:7".into())
        );
        assert_ne!(b.address.port(), 0);
        assert_eq!(b.advertised.to_string(), format!("localhost:{}", b.address.port()));
        let taken = ListenerSettings {
            listen: Endpoint { host: "127.0.0.1".to_owned(), port: a.address.port() },
            ..wanted[0].clone()
        };
        let error = format!("{:#}", bind(&[taken], false).await.unwrap_err());
        assert!(error.contains("for Kafka clients (A)"), "{error}");
        // Had the check let it through, the address it means is still not listened on.
        let remote = ListenerSettings {
            name: "C".to_owned(),
            listen: Endpoint { host: "0.0.0.0".to_owned(), port: 0 },
            advertise: None,
        };
        let error = format!("{:#}", bind(std::slice::from_ref(&remote), false).await.unwrap_err());
        assert!(error.contains("--allow-remote"), "{error}");
        let error = format!("{:#}", bind(&[remote], true).await.unwrap_err());
        assert!(error.contains("--kafka-advertise C=HOST:9092"), "{error}");
    }
}
