//! The stored form of the topology: JSON records with a version in the metadata store.
//!
//! ```text
//! queue-settings                     how many shards
//! vhosts/<vhost>                     exchanges/<vhost>/<name>        queues/<vhost>/<name>
//! bindings/<number, 16 hex digits>   queues-deleting/<log>           counters/queue-log, counters/queue-pool
//! policies/<vhost>/<name>            operator-policies/<vhost>/<name>
//! vhosts-deleting/<vhost>            what a virtual host had is being deleted
//! delays/<vhost>                     the logs of messages that exchanges keep back, by delay
//! ```
//! Names in keys are percent-encoded.
//!
//! **Invariants.** Only what survives a restart is stored: durable exchanges, durable queues that are not
//! exclusive, bindings between such. A record of a newer version refuses the start.

use bytes::Bytes;
use ferrymq_storage::{Entry, ErrorKind, Put, StorageError};
use ferrymq_types::LogId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::args::{Arguments, Value};
use super::policy::{ApplyTo, PolicySpec};
use super::settings::QueueType;
use super::topology::{Binding, Destination};
use super::types::{ExchangeKind, ExchangeSpec, QueueSpec, VhostSpec};

/// The version written.
const VERSION: u32 = 1;
/// The version of what a program that knows only the first would get wrong: a queue with levels.
const VERSION_LEVELS: u32 = 2;
/// The same of the first two: a virtual host whose queues are not classic unless they say so.
const VERSION_DEFAULT_TYPE: u32 = 3;

pub(super) const SETTINGS: &str = "queue-settings";
pub(super) const VHOSTS: &str = "vhosts/";
pub(super) const EXCHANGES: &str = "exchanges/";
pub(super) const QUEUES: &str = "queues/";
pub(super) const BINDINGS: &str = "bindings/";
pub(super) const VHOSTS_DELETING: &str = "vhosts-deleting/";
pub(super) const POLICIES: &str = "policies/";
pub(super) const OPERATOR_POLICIES: &str = "operator-policies/";
pub(super) const DELAYS: &str = "delays/";
pub(super) const DELETING: &str = "queues-deleting/";
/// The next log of a durable queue.
pub(super) const LOG_COUNTER: &str = "counters/queue-log";
/// How many logs of other queues there are.
pub(super) const POOL_COUNTER: &str = "counters/queue-pool";

/// Any record: its version stands beside its fields.
#[derive(Debug, Serialize, Deserialize)]
struct Versioned<T> {
    v: u32,
    #[serde(flatten)]
    record: T,
}

/// The version of any record.
#[derive(Debug, Deserialize)]
struct Version {
    v: u32,
}

/// How the queues of a store are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SettingsRecord {
    pub(super) shards: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct VhostRecord {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "is_classic")]
    default_queue_type: QueueType,
}

/// Of a policy, or of an operator's.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PolicyRecord {
    pub(super) vhost: String,
    name: String,
    pattern: String,
    apply_to: ApplyTo,
    priority: i64,
    definition: Arguments,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_classic(kind: &QueueType) -> bool {
    *kind == QueueType::Classic
}

impl VhostRecord {
    pub(super) fn new(spec: &VhostSpec) -> VhostRecord {
        let VhostSpec { name, description, tags, default_queue_type } = spec.clone();
        VhostRecord { name: name.to_string(), description, tags, default_queue_type }
    }

    pub(super) fn spec(self) -> VhostSpec {
        let VhostRecord { name, description, tags, default_queue_type } = self;
        VhostSpec { name: name.into(), description, tags, default_queue_type }
    }
}

impl PolicyRecord {
    pub(super) fn new(vhost: &str, spec: &PolicySpec) -> PolicyRecord {
        let PolicySpec { name, pattern, apply_to, priority, definition } = spec.clone();
        PolicyRecord {
            vhost: vhost.to_owned(),
            name: name.to_string(),
            pattern,
            apply_to,
            priority,
            definition,
        }
    }

    pub(super) fn spec(self) -> PolicySpec {
        let PolicyRecord { name, pattern, apply_to, priority, definition, .. } = self;
        PolicySpec { name: name.into(), pattern, apply_to, priority, definition }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExchangeRecord {
    pub(super) vhost: String,
    pub(super) name: String,
    kind: ExchangeKind,
    auto_delete: bool,
    internal: bool,
    arguments: Arguments,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct QueueRecord {
    pub(super) vhost: String,
    pub(super) name: String,
    pub(super) log: u64,
    auto_delete: bool,
    arguments: Arguments,
    created_ms: i64,
    /// Priorities that have a log of their own, and the logs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) levels: Vec<(u8, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BindingRecord {
    pub(super) vhost: String,
    source: String,
    /// The queue it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    /// The exchange it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exchange: Option<String>,
    routing_key: Value,
    arguments: Arguments,
}

/// Where the messages of a virtual host wait that exchanges keep back, shortest delays first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DelaysRecord {
    pub(super) vhost: String,
    pub(super) logs: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DeletingRecord {
    pub(super) log: u64,
}

impl ExchangeRecord {
    pub(super) fn new(vhost: &str, spec: &ExchangeSpec) -> ExchangeRecord {
        let ExchangeSpec { name, kind, auto_delete, internal, arguments, .. } = spec.clone();
        ExchangeRecord {
            vhost: vhost.to_owned(),
            name: name.to_string(),
            kind,
            auto_delete,
            internal,
            arguments,
        }
    }

    pub(super) fn spec(self) -> ExchangeSpec {
        let ExchangeRecord { name, kind, auto_delete, internal, arguments, .. } = self;
        ExchangeSpec { name: name.into(), kind, durable: true, auto_delete, internal, arguments }
    }
}

impl QueueRecord {
    pub(super) fn new(vhost: &str, spec: &QueueSpec, log: u64, created_ms: i64) -> QueueRecord {
        let QueueSpec { name, auto_delete, arguments, .. } = spec.clone();
        QueueRecord {
            vhost: vhost.to_owned(),
            name: name.to_string(),
            log,
            auto_delete,
            arguments,
            created_ms,
            levels: Vec::new(),
        }
    }

    /// Its own log and those of its levels.
    pub(super) fn logs(&self) -> impl Iterator<Item = LogId> {
        std::iter::once(self.log).chain(self.levels.iter().map(|(_, log)| *log)).map(LogId)
    }

    pub(super) fn spec(self) -> QueueSpec {
        let QueueRecord { name, auto_delete, arguments, .. } = self;
        QueueSpec { name: name.into(), durable: true, exclusive: false, auto_delete, arguments }
    }
}

impl BindingRecord {
    pub(super) fn new(vhost: &str, binding: &Binding) -> BindingRecord {
        let (queue, exchange) = match &binding.destination {
            Destination::Queue(name) => (Some(name.to_string()), None),
            Destination::Exchange(name) => (None, Some(name.to_string())),
        };
        BindingRecord {
            vhost: vhost.to_owned(),
            source: binding.source.to_string(),
            queue,
            exchange,
            routing_key: Value::Text(binding.routing_key.to_vec()),
            arguments: binding.arguments.clone(),
        }
    }

    /// The binding of this number; `None` if the record makes no sense.
    pub(super) fn binding(self) -> Option<Binding> {
        let destination = match (self.queue, self.exchange) {
            (Some(name), None) => Destination::Queue(name.into()),
            (None, Some(name)) => Destination::Exchange(name.into()),
            _ => return None,
        };
        let Value::Text(routing_key) = self.routing_key else { return None };
        let (source, arguments) = (self.source.into(), self.arguments);
        Some(Binding { source, destination, routing_key: routing_key.into(), arguments, stored: true })
    }
}

/// The key of a record under `prefix`, by names.
pub(super) fn key(prefix: &str, names: &[&str]) -> String {
    let mut key = prefix.to_owned();
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            key.push('/');
        }
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                key.push(char::from(byte));
            } else {
                key.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    key
}

/// The key of a binding.
pub(super) fn binding_key(number: u64) -> String {
    format!("{BINDINGS}{number:016x}")
}

/// The number of a binding, from its key.
pub(super) fn binding_number(key: &str) -> Option<u64> {
    u64::from_str_radix(key.strip_prefix(BINDINGS)?, 16).ok()
}

/// Writes a record.
pub(super) fn put<T: Serialize>(key: String, record: T) -> Result<Put, StorageError> {
    put_as(VERSION, key, record)
}

/// Writes the record of a queue.
pub(super) fn put_queue(key: String, record: QueueRecord) -> Result<Put, StorageError> {
    put_as(if record.levels.is_empty() { VERSION } else { VERSION_LEVELS }, key, record)
}

/// Writes the record of a virtual host, or of its deletion.
pub(super) fn put_vhost(key: String, record: VhostRecord) -> Result<Put, StorageError> {
    put_as(if is_classic(&record.default_queue_type) { VERSION } else { VERSION_DEFAULT_TYPE }, key, record)
}

fn put_as<T: Serialize>(v: u32, key: String, record: T) -> Result<Put, StorageError> {
    let bytes = serde_json::to_vec(&Versioned { v, record }).map_err(|error| {
        StorageError::new(ErrorKind::Internal, "a record could not be encoded").caused_by(error)
    })?;
    Ok(Put { key, value: Some(Bytes::from(bytes)) })
}

/// Writes a counter.
pub(super) fn put_counter(name: &str, value: u64) -> Put {
    Put { key: name.to_owned(), value: Some(Bytes::from(value.to_string())) }
}

/// Reads a counter.
pub(super) fn read_counter(entry: &Entry) -> Result<u64, StorageError> {
    serde_json::from_slice(&entry.value).map_err(|error| {
        let text = format!("stored counter {} cannot be read", entry.key);
        StorageError::new(ErrorKind::Internal, text).caused_by(error)
    })
}

/// Deletes a record.
pub(super) fn gone(key: String) -> Put {
    Put { key, value: None }
}

/// Reads a record.
pub(super) fn read<T: DeserializeOwned>(entry: &Entry) -> Result<T, StorageError> {
    let unreadable = |error| {
        let text = format!("stored record {} cannot be read: is it of a newer FerryMQ?", entry.key);
        StorageError::new(ErrorKind::Internal, text).caused_by(error)
    };
    let Version { v } = serde_json::from_slice(&entry.value).map_err(unreadable)?;
    if !(VERSION..=VERSION_DEFAULT_TYPE).contains(&v) {
        let text = format!("stored record {} has version {v}: a newer FerryMQ wrote it", entry.key);
        return Err(StorageError::new(ErrorKind::Internal, text));
    }
    serde_json::from_slice::<Versioned<T>>(&entry.value).map(|versioned| versioned.record).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ferrymq_storage::Revision;

    use super::*;
    use crate::queues::args::Width;

    #[track_caller]
    fn pinned<T: Serialize + DeserializeOwned>(record: T, text: &str) -> T {
        let put = put("k".to_owned(), record).unwrap();
        let value = put.value.unwrap();
        assert_eq!(std::str::from_utf8(&value).unwrap(), text);
        read(&Entry { key: put.key, value, revision: Revision(1) }).unwrap()
    }

    #[test]
    fn records_are_pinned() {
        let vhost = "/";
        let arguments = Arguments(vec![("x".to_owned(), Value::text("y"))]);
        let queue = QueueSpec {
            name: Arc::from("q"),
            durable: true,
            exclusive: false,
            auto_delete: true,
            arguments: arguments.clone(),
        };
        let text = r#"{"v":1,"vhost":"/","name":"q","log":7,"auto_delete":true,"arguments":[["x",{"text":"y"}]],"created_ms":5}"#;
        assert_eq!(pinned(QueueRecord::new(vhost, &queue, 7, 5), text).spec(), queue);
        let mut record = QueueRecord::new(vhost, &queue, 7, 5);
        record.levels = vec![(9, 11), (1, 12)];
        let put = put_queue("k".to_owned(), record).unwrap();
        let value = put.value.unwrap();
        let text = r#"{"v":2,"vhost":"/","name":"q","log":7,"auto_delete":true,"arguments":[["x",{"text":"y"}]],"created_ms":5,"levels":[[9,11],[1,12]]}"#;
        assert_eq!(std::str::from_utf8(&value).unwrap(), text);
        let entry = Entry { key: put.key, value, revision: Revision(1) };
        assert_eq!(read::<QueueRecord>(&entry).unwrap().levels, [(9, 11), (1, 12)]);
        let exchange = ExchangeSpec {
            name: Arc::from("e"),
            kind: ExchangeKind::Topic,
            durable: true,
            auto_delete: false,
            internal: true,
            arguments: Arguments::default(),
        };
        let text = r#"{"v":1,"vhost":"/","name":"e","kind":"topic","auto_delete":false,"internal":true,"arguments":[]}"#;
        assert_eq!(pinned(ExchangeRecord::new(vhost, &exchange), text).spec(), exchange);
        let binding = Binding {
            source: Arc::from("e"),
            destination: Destination::Queue(Arc::from("q")),
            routing_key: Bytes::from_static(&[0xff]),
            arguments,
            stored: true,
        };
        let text = r#"{"v":1,"vhost":"/","source":"e","queue":"q","routing_key":{"text":[255]},"arguments":[["x",{"text":"y"}]]}"#;
        assert_eq!(pinned(BindingRecord::new(vhost, &binding), text).binding(), Some(binding));
    }

    #[test]
    fn the_record_of_delays_is_pinned() {
        let record = DelaysRecord { vhost: "/".to_owned(), logs: vec![7, 8] };
        let put = put(key(DELAYS, &["/"]), record).unwrap();
        assert_eq!(
            (&*put.key, put.value.as_deref()),
            ("delays/%2F", Some(&br#"{"v":1,"vhost":"/","logs":[7,8]}"#[..]))
        );
    }

    #[test]
    fn records_of_virtual_hosts_and_policies_are_pinned() {
        let text = r#"{"v":1,"name":"v"}"#;
        assert_eq!(pinned(VhostRecord::new(&VhostSpec::named("v")), text).spec(), VhostSpec::named("v"));
        let told =
            VhostSpec { description: "d".to_owned(), tags: vec!["t".to_owned()], ..VhostSpec::named("v") };
        let text = r#"{"v":1,"name":"v","description":"d","tags":["t"]}"#;
        assert_eq!(pinned(VhostRecord::new(&told), text).spec(), told);
        let quorum = VhostSpec { default_queue_type: QueueType::Quorum, ..VhostSpec::named("v") };
        let put = put_vhost("k".to_owned(), VhostRecord::new(&quorum)).unwrap();
        let value = put.value.unwrap();
        assert_eq!(
            std::str::from_utf8(&value).unwrap(),
            r#"{"v":3,"name":"v","default_queue_type":"quorum"}"#
        );
        let entry = Entry { key: put.key, value, revision: Revision(1) };
        assert_eq!(read::<VhostRecord>(&entry).unwrap().spec(), quorum);
        let policy = PolicySpec {
            name: Arc::from("p"),
            pattern: "^(?!amq)".to_owned(),
            apply_to: ApplyTo::ClassicQueues,
            priority: -3,
            definition: Arguments(vec![("max-length".to_owned(), Value::Int(5, Width::I64))]),
        };
        let text = r#"{"v":1,"vhost":"/","name":"p","pattern":"^(?!amq)","apply_to":"classic_queues","priority":-3,"definition":[["max-length",{"int":[5,"i64"]}]]}"#;
        assert_eq!(pinned(PolicyRecord::new("/", &policy), text).spec(), policy);
    }

    #[test]
    fn names_do_not_meet_in_keys() {
        assert_eq!(key(QUEUES, &["/", "a/b c"]), "queues/%2F/a%2Fb%20c");
        assert_ne!(key("", &["a/b", "c"]), key("", &["a", "b/c"]));
        assert_eq!(binding_number(&binding_key(0xabc)), Some(0xabc));
    }
}
