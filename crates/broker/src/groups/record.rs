//! The records of a shard's log: what is durable about groups.
//!
//! ```text
//! key    kind u8, key version u8, then by kind
//!          1 offset          group text, topic text, partition u32
//!          2 classic group   group text
//!        16..31 are kept for KIP-848 groups, 32..47 for share groups
//! value  version u8, then the fields below; null is a tombstone
//! text   varint length, UTF-8       bytes  varint length, bytes
//! ```
//! **Invariants.** A record says all there is to say about its key: the last one wins. A tombstone of a group
//! also removes the group's offsets, so that deleting a group takes one record. A kind or version that is not
//! known refuses to decode: a broker that was rolled back must not drop what a newer one wrote.
//!
//! Deliberately absent: what is not durable: pending members, who is waiting, timers.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{
    Decoded, finish, get_bytes, get_i32, get_i64, get_length, get_presence, get_text, get_text_option,
    get_u8, get_u32, put_bytes, put_length, put_text, put_text_option,
};
use super::types::Protocol;

const KIND_OFFSET: u8 = 1;
const KIND_CLASSIC: u8 = 2;
const KEY_VERSION: u8 = 1;
const OFFSET_VERSION: u8 = 1;
const CLASSIC_VERSION: u8 = 1;

/// One change of the durable state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupRecord {
    /// An offset was committed, or (without a value) removed.
    Offset {
        /// The group.
        group: Arc<str>,
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// What was committed; `None`: removed.
        value: Option<CommittedOffset>,
    },
    /// A classic group became stable or empty, or (without a value) was deleted with its offsets.
    Classic {
        /// The group.
        group: Arc<str>,
        /// Its metadata; `None`: deleted.
        value: Option<Arc<GroupMetadata>>,
    },
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to consume.
    pub offset: i64,
    /// Leader epoch of the last consumed record.
    pub leader_epoch: Option<i32>,
    /// The client's note.
    pub metadata: Arc<str>,
    /// When it was committed, in milliseconds since 1970.
    pub commit_ms: i64,
    /// When it expires, if the client said so.
    pub expire_ms: Option<i64>,
    /// The topic's id, if it was known.
    pub topic_id: Option<[u8; 16]>,
}

/// A classic group, stable or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadata {
    /// The generation.
    pub generation: i32,
    /// Such as `consumer`.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol in use.
    pub protocol: Option<Arc<str>>,
    /// The leader's member id.
    pub leader: Option<Arc<str>>,
    /// Since when the group is in this state, in milliseconds since 1970.
    pub since_ms: i64,
    /// The members; none if the group is empty.
    pub members: Vec<MemberMetadata>,
}

/// What is durable about a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberMetadata {
    /// Its id.
    pub id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// The client's name for itself.
    pub client_id: Arc<str>,
    /// Where the client is.
    pub client_host: Arc<str>,
    /// After this long without a sign of life it is removed.
    pub session_timeout_ms: u32,
    /// How long a rebalance waits for it.
    pub rebalance_timeout_ms: u32,
    /// What it supports, preferred first. All of it, so that a member that joins again unchanged after a
    /// restart of the broker causes no rebalance.
    pub protocols: Vec<Protocol>,
    /// What is assigned to it.
    pub assignment: Bytes,
}

/// Why a record could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordDecodeError {
    /// Written by a newer broker.
    #[error("group record of a newer version: kind={kind} version={version}")]
    Unsupported {
        /// The record's kind.
        kind: u8,
        /// The version of its key or value.
        version: u8,
    },
    /// Not a record of this log.
    #[error("malformed group record: {0}")]
    Malformed(&'static str),
}

impl GroupRecord {
    /// The group it is about.
    #[must_use]
    pub fn group(&self) -> &Arc<str> {
        match self {
            GroupRecord::Offset { group, .. } | GroupRecord::Classic { group, .. } => group,
        }
    }

    /// The record's key.
    #[must_use]
    pub fn encode_key(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        match self {
            GroupRecord::Offset { group, topic, partition, .. } => {
                out.put_slice(&[KIND_OFFSET, KEY_VERSION]);
                put_text(&mut out, group);
                put_text(&mut out, topic);
                out.put_u32(*partition);
            }
            GroupRecord::Classic { group, .. } => {
                out.put_slice(&[KIND_CLASSIC, KEY_VERSION]);
                put_text(&mut out, group);
            }
        }
        out.freeze()
    }

    /// The record's value; `None` for a tombstone.
    #[must_use]
    pub fn encode_value(&self) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(64);
        match self {
            GroupRecord::Offset { value, .. } => put_offset(&mut out, value.as_ref()?),
            GroupRecord::Classic { value, .. } => put_classic(&mut out, value.as_deref()?),
        }
        Some(out.freeze())
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`RecordDecodeError::Unsupported`] for what a newer broker wrote, else
    /// [`RecordDecodeError::Malformed`].
    pub fn decode(mut key: Bytes, value: Option<Bytes>) -> Result<GroupRecord, RecordDecodeError> {
        let kind = get_u8(&mut key)?;
        let version = get_u8(&mut key)?;
        if !matches!(kind, KIND_OFFSET | KIND_CLASSIC) || version != KEY_VERSION {
            return Err(RecordDecodeError::Unsupported { kind, version });
        }
        let group = get_text(&mut key)?;
        let record = if kind == KIND_OFFSET {
            let topic = get_text(&mut key)?;
            let partition = get_u32(&mut key)?;
            let value = value.map(get_offset).transpose()?;
            GroupRecord::Offset { group, topic, partition, value }
        } else {
            GroupRecord::Classic { group, value: value.map(get_classic).transpose()?.map(Arc::new) }
        };
        finish(&key)?;
        Ok(record)
    }

    /// About how many bytes it takes in the log.
    #[must_use]
    pub fn size(&self) -> usize {
        const OVERHEAD: usize = 24;
        OVERHEAD
            + match self {
                GroupRecord::Offset { group, topic, value, .. } => {
                    group.len()
                        + topic.len()
                        + 8
                        + value.as_ref().map_or(0, |value| 48 + value.metadata.len())
                }
                GroupRecord::Classic { group, value } => {
                    group.len() + 4 + value.as_ref().map_or(0, |value| value.size())
                }
            }
    }
}

impl GroupMetadata {
    /// About how many bytes it takes in the log.
    #[must_use]
    pub fn size(&self) -> usize {
        64 + self.members.iter().map(MemberMetadata::size).sum::<usize>()
    }
}

impl MemberMetadata {
    /// About how many bytes it takes in the log.
    #[must_use]
    pub fn size(&self) -> usize {
        self.subscribed_bytes() + self.assignment.len()
    }

    /// The same without its assignment.
    #[must_use]
    pub fn subscribed_bytes(&self) -> usize {
        let names = self.id.len() + self.client_id.len() + self.client_host.len();
        let instance = self.instance_id.as_ref().map_or(0, |id| id.len());
        names + instance + protocol_bytes(&self.protocols) + MEMBER_BYTES
    }

    /// What it says for `protocol`; empty if it does not support it.
    #[must_use]
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|supported| &*supported.name == protocol);
        found.map(|supported| supported.metadata.clone()).unwrap_or_default()
    }
}

/// What a member takes besides its names, protocols and assignment.
pub(super) const MEMBER_BYTES: usize = 24;

/// About how many bytes protocols take.
pub(super) fn protocol_bytes(protocols: &[Protocol]) -> usize {
    protocols.iter().map(|protocol| protocol.name.len() + protocol.metadata.len() + 4).sum()
}

fn put_offset(out: &mut BytesMut, value: &CommittedOffset) {
    out.put_u8(OFFSET_VERSION);
    out.put_i64(value.offset);
    out.put_i32(value.leader_epoch.unwrap_or(-1));
    out.put_i64(value.commit_ms);
    out.put_i64(value.expire_ms.unwrap_or(-1));
    match &value.topic_id {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            out.put_slice(id);
        }
    }
    put_text(out, &value.metadata);
}

fn get_offset(mut from: Bytes) -> Decoded<CommittedOffset> {
    check_version(&mut from, KIND_OFFSET, OFFSET_VERSION)?;
    let offset = get_i64(&mut from)?;
    let leader_epoch = Some(get_i32(&mut from)?).filter(|epoch| *epoch >= 0);
    let commit_ms = get_i64(&mut from)?;
    let expire_ms = Some(get_i64(&mut from)?).filter(|expire| *expire >= 0);
    let topic_id = if get_presence(&mut from)? { Some(get_topic_id(&mut from)?) } else { None };
    let metadata = get_text(&mut from)?;
    finish(&from)?;
    Ok(CommittedOffset { offset, leader_epoch, metadata, commit_ms, expire_ms, topic_id })
}

fn get_topic_id(from: &mut Bytes) -> Decoded<[u8; 16]> {
    let id = *from.first_chunk::<16>().ok_or(RecordDecodeError::Malformed("cut short"))?;
    let _ = from.split_to(16);
    Ok(id)
}

fn put_classic(out: &mut BytesMut, value: &GroupMetadata) {
    out.put_u8(CLASSIC_VERSION);
    out.put_i32(value.generation);
    put_text_option(out, value.protocol_type.as_deref());
    put_text_option(out, value.protocol.as_deref());
    put_text_option(out, value.leader.as_deref());
    out.put_i64(value.since_ms);
    put_length(out, value.members.len());
    for member in &value.members {
        put_member(out, member);
    }
}

fn put_member(out: &mut BytesMut, member: &MemberMetadata) {
    put_text(out, &member.id);
    put_text_option(out, member.instance_id.as_deref());
    put_text(out, &member.client_id);
    put_text(out, &member.client_host);
    out.put_u32(member.session_timeout_ms);
    out.put_u32(member.rebalance_timeout_ms);
    put_length(out, member.protocols.len());
    for protocol in &member.protocols {
        put_text(out, &protocol.name);
        put_bytes(out, &protocol.metadata);
    }
    put_bytes(out, &member.assignment);
}

fn get_classic(mut from: Bytes) -> Decoded<GroupMetadata> {
    check_version(&mut from, KIND_CLASSIC, CLASSIC_VERSION)?;
    let generation = get_i32(&mut from)?;
    let protocol_type = get_text_option(&mut from)?;
    let protocol = get_text_option(&mut from)?;
    let leader = get_text_option(&mut from)?;
    let since_ms = get_i64(&mut from)?;
    let count = get_length(&mut from)?;
    let members = (0..count).map(|_| get_member(&mut from)).collect::<Decoded<Vec<_>>>()?;
    finish(&from)?;
    Ok(GroupMetadata { generation, protocol_type, protocol, leader, since_ms, members })
}

fn get_member(from: &mut Bytes) -> Decoded<MemberMetadata> {
    let id = get_text(from)?;
    let instance_id = get_text_option(from)?;
    let client_id = get_text(from)?;
    let client_host = get_text(from)?;
    let session_timeout_ms = get_u32(from)?;
    let rebalance_timeout_ms = get_u32(from)?;
    let count = get_length(from)?;
    let protocols = (0..count)
        .map(|_| Ok(Protocol { name: get_text(from)?, metadata: copied(&get_bytes(from)?) }))
        .collect::<Decoded<Vec<_>>>()?;
    let assignment = copied(&get_bytes(from)?);
    Ok(MemberMetadata {
        id,
        instance_id,
        client_id,
        client_host,
        session_timeout_ms,
        rebalance_timeout_ms,
        protocols,
        assignment,
    })
}

/// Bytes that keep nothing but themselves in memory.
pub(super) fn copied(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn check_version(from: &mut Bytes, kind: u8, newest: u8) -> Decoded<()> {
    let version = get_u8(from)?;
    if version == newest { Ok(()) } else { Err(RecordDecodeError::Unsupported { kind, version }) }
}
