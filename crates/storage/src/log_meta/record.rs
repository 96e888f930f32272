//! The bytes of a metadata log: one batch is one transaction or one part of a snapshot.
//!
//! ```text
//!  0     version   u8    1
//!  1     kind      u8    1 transaction, 2 snapshot part
//!  2     body
//!  n-4   CRC-32C   u32   over everything before it
//!
//!  transaction     count u32, then each   key, 0 | 1 value        0: the key is deleted
//!  snapshot part   part u32, parts u32, count u32, then each   revision u64, key, value
//!  key             length u16, UTF-8      value   length u32, bytes
//! ```
//! Numbers are big-endian. The revision of a transaction is not stored: it is the batch's offset plus one.
//!
//! **Invariant.** Bytes that were ever written stay readable: a change of layout is a new version.
//!
//! Deliberately absent: compression. The whole of it is a few megabytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ferrymq_types::batch::crc32c;

use crate::{Entry, Put, Revision};

const VERSION: u8 = 1;
const KIND_TRANSACTION: u8 = 1;
const KIND_SNAPSHOT: u8 = 2;
const CRC_BYTES: usize = 4;

/// One batch, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// Changes that happened together.
    Transaction(Vec<Put>),
    /// Part of everything that was there.
    Snapshot { part: u32, parts: u32, entries: Vec<Entry> },
}

impl Record {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        match self {
            Record::Transaction(puts) => {
                out.put_u8(KIND_TRANSACTION);
                out.put_u32(count(puts.len()));
                for put in puts {
                    put_key(&mut out, &put.key);
                    out.put_u8(u8::from(put.value.is_some()));
                    if let Some(value) = &put.value {
                        put_value(&mut out, value);
                    }
                }
            }
            Record::Snapshot { part, parts, entries } => {
                out.put_u8(KIND_SNAPSHOT);
                out.put_u32(*part);
                out.put_u32(*parts);
                out.put_u32(count(entries.len()));
                for entry in entries {
                    out.put_u64(entry.revision.0);
                    put_key(&mut out, &entry.key);
                    put_value(&mut out, &entry.value);
                }
            }
        }
        let crc = crc32c(&out);
        out.put_u32(crc);
        out.freeze()
    }

    /// # Errors
    /// What is wrong with the bytes.
    pub(super) fn decode(bytes: Bytes) -> Result<Record, &'static str> {
        let Some(body) = bytes.len().checked_sub(CRC_BYTES) else { return Err("cut short") };
        if crc32c(&bytes[..body]).to_be_bytes() != bytes[body..] {
            return Err("checksum does not match");
        }
        let mut rest = bytes.slice(..body);
        let version = take(&mut rest, Buf::try_get_u8)?;
        if version != VERSION {
            return Err("written by a newer version");
        }
        let record = match take(&mut rest, Buf::try_get_u8)? {
            KIND_TRANSACTION => Record::Transaction(many(&mut rest, take_put)?),
            KIND_SNAPSHOT => Record::Snapshot {
                part: take(&mut rest, Buf::try_get_u32)?,
                parts: take(&mut rest, Buf::try_get_u32)?,
                entries: many(&mut rest, take_entry)?,
            },
            _ => return Err("unknown kind"),
        };
        if rest.has_remaining() { Err("bytes left over") } else { Ok(record) }
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("a transaction is bounded in bytes")
}

fn put_key(out: &mut BytesMut, key: &str) {
    out.put_u16(u16::try_from(key.len()).expect("keys are bounded"));
    out.put_slice(key.as_bytes());
}

fn put_value(out: &mut BytesMut, value: &[u8]) {
    out.put_u32(u32::try_from(value.len()).expect("values are bounded"));
    out.put_slice(value);
}

fn take<T>(
    rest: &mut Bytes,
    get: impl FnOnce(&mut Bytes) -> Result<T, bytes::TryGetError>,
) -> Result<T, &'static str> {
    get(rest).map_err(|_| "cut short")
}

/// Takes as many as the count says; nothing is reserved for a count that the bytes do not bear out.
fn many<T>(
    rest: &mut Bytes,
    one: impl Fn(&mut Bytes) -> Result<T, &'static str>,
) -> Result<Vec<T>, &'static str> {
    let count = take(rest, Buf::try_get_u32)?;
    (0..count).map(|_| one(rest)).collect()
}

fn take_put(rest: &mut Bytes) -> Result<Put, &'static str> {
    let key = take_key(rest)?;
    let value = match take(rest, Buf::try_get_u8)? {
        0 => None,
        1 => Some(take_value(rest)?),
        _ => return Err("a change is neither put nor deletion"),
    };
    Ok(Put { key, value })
}

fn take_entry(rest: &mut Bytes) -> Result<Entry, &'static str> {
    let revision = Revision(take(rest, Buf::try_get_u64)?);
    Ok(Entry { revision, key: take_key(rest)?, value: take_value(rest)? })
}

fn take_key(rest: &mut Bytes) -> Result<String, &'static str> {
    let size = usize::from(take(rest, Buf::try_get_u16)?);
    let bytes = take_bytes(rest, size)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| "a key is not UTF-8")
}

fn take_value(rest: &mut Bytes) -> Result<Bytes, &'static str> {
    let size = take(rest, Buf::try_get_u32)?;
    let size = usize::try_from(size).map_err(|_| "cut short")?;
    // A copy: a small value must not keep alive the snapshot it was read in.
    take_bytes(rest, size).map(|bytes| Bytes::copy_from_slice(&bytes))
}

fn take_bytes(rest: &mut Bytes, size: usize) -> Result<Bytes, &'static str> {
    if rest.len() < size { Err("cut short") } else { Ok(rest.split_to(size)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: Option<&'static str>) -> Put {
        Put { key: key.to_owned(), value: value.map(Bytes::from) }
    }

    fn golden(record: &Record, hex: &str) {
        let expected: String = hex.split_whitespace().collect();
        let encoded: String = record.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(encoded, expected);
        assert_eq!(Record::decode(record.encode()).as_ref(), Ok(record));
    }

    #[test]
    fn transactions_have_these_bytes() {
        let puts = vec![put("topics/orders", Some("v1")), put("a", None), put("é", Some(""))];
        golden(
            &Record::Transaction(puts),
            "01 01 00000003 000d 746f706963732f6f7264657273 01 00000002 7631
             0001 61 00  0002 c3a9 01 00000000  e7903786",
        );
        golden(&Record::Transaction(vec![]), "01 01 00000000 800b783f");
    }

    #[test]
    fn snapshots_have_these_bytes() {
        let entry = Entry { key: "k".to_owned(), value: Bytes::from("value"), revision: Revision(258) };
        golden(
            &Record::Snapshot { part: 1, parts: 2, entries: vec![entry] },
            "01 02 00000001 00000002 00000001 0000000000000102 0001 6b 00000005 76616c7565 d3c5c0f4",
        );
    }

    /// Replaces the checksum by the right one, so that what is behind it is looked at.
    fn sealed(body: &[u8]) -> Bytes {
        [body, &crc32c(body).to_be_bytes()].concat().into()
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let good = Record::Transaction(vec![put("key", Some("value")), put("gone", None)]).encode();
        for cut in 0..good.len() {
            assert!(Record::decode(good.slice(..cut)).is_err(), "cut at {cut}");
            // With a checksum that fits.
            if cut < good.len() - CRC_BYTES {
                assert!(Record::decode(sealed(&good[..cut])).is_err(), "sealed and cut at {cut}");
            }
        }
        for bit in 0..good.len() * 8 {
            let mut flipped = good.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(flipped.into()), Err("checksum does not match"), "bit {bit}");
        }
        let bodies: [(&[u8], &str); 6] = [
            (&[2, 1, 0, 0, 0, 0], "written by a newer version"),
            (&[1, 3, 0, 0, 0, 0], "unknown kind"),
            (&[1, 1, 0, 0, 0, 0, 9], "bytes left over"),
            (&[1, 1, 255, 255, 255, 255], "cut short"),
            (&[1, 1, 0, 0, 0, 1, 0, 1, b'k', 2], "a change is neither put nor deletion"),
            (&[1, 1, 0, 0, 0, 1, 0, 1, 0xff, 0], "a key is not UTF-8"),
        ];
        for (body, what) in bodies {
            assert_eq!(Record::decode(sealed(body)), Err(what));
        }
    }
}
