//! Writes a message as a rope: small fields into one growing buffer, large records beside it.
//!
//! ```text
//!   buffer   [length][header][fields .......][fields ....]
//!   splices                         ^ records A    ^ records B
//!   frame    [length header fields] [A] [fields] [B]
//! ```
//!
//! Where records are deferred the frame is cut in parts, and their bytes are counted.
//!
//! The length in front is filled in when the rope is finished; nothing is measured beforehand and
//! nothing is written twice, except that the size of a tagged field is moved in front of its value.
//!
//! Invariants: records of at least [`RECORDS_SPLICE_MIN`] bytes are never copied; what a version cannot
//! carry is an error unless Kafka's descriptor says it may be dropped.

use std::fmt;

use bytes::Bytes;

use crate::api_key::ApiKey;
use crate::decode::STRING_BYTES_MAX;
use crate::frame::Frame;
use crate::message::Wire;
use crate::records::Records;
use crate::str_bytes::StrBytes;
use crate::uuid::Uuid;

/// Runs of records shorter than this are copied: a chunk of its own would cost more than the copy.
pub const RECORDS_SPLICE_MIN: usize = 512;

/// Why a message cannot be written in a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// The field holds something and the version has no place for it.
    FieldNotInVersion {
        /// Struct and field.
        field: &'static str,
        /// The version.
        version: i16,
    },
    /// The field is null and may not be in this version.
    NullNotInVersion {
        /// Struct and field.
        field: &'static str,
        /// The version.
        version: i16,
    },
    /// A string, array, byte field or frame is longer than its length field can say.
    TooLong {
        /// The length.
        len: usize,
    },
    /// Records are deferred in a frame that has to be whole.
    Deferred,
    /// A version of the API that we do not encode.
    UnsupportedVersion {
        /// The API.
        api: ApiKey,
        /// The version.
        version: i16,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FieldNotInVersion { field, version } => {
                write!(f, "field {field} is set but not in version {version}")
            }
            Self::NullNotInVersion { field, version } => {
                write!(f, "field {field} is null, which version {version} does not allow")
            }
            Self::TooLong { len } => write!(f, "too long for the protocol: {len}"),
            Self::Deferred => f.write_str("records are deferred and the frame has to be whole"),
            Self::UnsupportedVersion { api, version } => write!(f, "unsupported version of {api}: {version}"),
        }
    }
}

impl std::error::Error for EncodeError {}

type Result<T> = std::result::Result<T, EncodeError>;

/// Where the count of a struct's tagged fields stands in the buffer.
#[derive(Debug, Clone, Copy)]
pub struct TagCount(usize);

/// Collects one message or one frame.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: Vec<u8>,
    /// Place in `buffer` in front of which the bytes belong, in rising order.
    splices: Vec<(usize, Bytes)>,
    spliced: usize,
    /// Where deferred records belong: the place in `buffer` and how many splices are in front of them.
    holes: Vec<(usize, usize)>,
    deferred: usize,
    flexible: bool,
}

impl Encoder {
    /// An encoder with nothing in it.
    pub fn new() -> Self {
        Self::with_capacity(256)
    }

    /// An encoder with room for the small fields.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { buffer: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Bytes written so far, spliced and deferred records included.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.spliced + self.deferred
    }

    /// Is nothing written yet?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was written, as it is, but for deferred records.
    pub fn finish(self) -> Frame {
        Frame::assemble(Bytes::from(self.buffer), self.splices)
    }

    /// Leaves room for the length of the frame; [`finish_frame`](Self::finish_frame) fills it in.
    pub(crate) fn begin_frame(&mut self) {
        self.i32(0);
    }

    /// What was written since [`begin_frame`](Self::begin_frame), with its length in front.
    pub(crate) fn finish_frame(self) -> Result<Frame> {
        let mut parts = self.finish_parts()?;
        if parts.len() > 1 { Err(EncodeError::Deferred) } else { Ok(parts.pop().unwrap_or_default()) }
    }

    /// As [`finish_frame`](Self::finish_frame), cut where records are deferred.
    pub(crate) fn finish_parts(mut self) -> Result<Vec<Frame>> {
        let len = self.len() - size_of::<i32>();
        let prefix = i32::try_from(len).map_err(|_| EncodeError::TooLong { len })?;
        self.buffer[..size_of::<i32>()].copy_from_slice(&prefix.to_be_bytes());
        let buffer = Bytes::from(self.buffer);
        let mut splices = self.splices.into_iter();
        let (mut at, mut taken) = (0, 0);
        let mut parts = Vec::with_capacity(self.holes.len() + 1);
        self.holes.push((buffer.len(), splices.len()));
        for (place, before) in self.holes {
            let these = splices.by_ref().take(before - taken).map(|(splice, bytes)| (splice - at, bytes));
            parts.push(Frame::assemble(buffer.slice(at..place), these.collect()));
            (at, taken) = (place, before);
        }
        Ok(parts)
    }

    /// Chooses between compact lengths with tagged fields and the old encoding.
    pub(crate) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) {
        self.buffer.push(value.into());
    }

    /// A signed byte.
    #[inline]
    pub fn i8(&mut self, value: i8) {
        self.put(&value.to_be_bytes());
    }

    /// A 16-bit integer.
    #[inline]
    pub fn i16(&mut self, value: i16) {
        self.put(&value.to_be_bytes());
    }

    /// An unsigned 16-bit integer.
    #[inline]
    pub fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    /// A 32-bit integer.
    #[inline]
    pub fn i32(&mut self, value: i32) {
        self.put(&value.to_be_bytes());
    }

    /// A 64-bit integer.
    #[inline]
    pub fn i64(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    /// A 64-bit float.
    pub fn f64(&mut self, value: f64) {
        self.put(&value.to_be_bytes());
    }

    /// A UUID.
    pub fn uuid(&mut self, value: Uuid) {
        self.put(value.as_bytes());
    }

    /// An unsigned varint.
    #[inline]
    pub fn uvarint(&mut self, mut value: u32) {
        loop {
            let [.., low] = value.to_be_bytes();
            value >>= 7;
            if value == 0 {
                return self.buffer.push(low & 0x7f);
            }
            self.buffer.push(low | 0x80);
        }
    }

    /// A compact length: one more than the value, zero for null.
    fn compact_len(&mut self, len: Option<usize>) -> Result<()> {
        let wire = match len {
            None => 0,
            Some(len) => len
                .checked_add(1)
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| i32::try_from(*n).is_ok())
                .ok_or(EncodeError::TooLong { len })?,
        };
        self.uvarint(wire);
        Ok(())
    }

    /// The length of a byte field or the count of an array.
    fn put_len(&mut self, len: Option<usize>) -> Result<()> {
        if self.flexible {
            return self.compact_len(len);
        }
        self.i32(match len {
            None => -1,
            Some(len) => i32::try_from(len).map_err(|_| EncodeError::TooLong { len })?,
        });
        Ok(())
    }

    /// A string or null.
    pub fn nullable_string(&mut self, value: Option<&StrBytes>) -> Result<()> {
        if !self.flexible {
            return self.header_string(value);
        }
        self.compact_len(string_len(value)?)?;
        self.put(value.map_or(&[], StrBytes::as_bytes));
        Ok(())
    }

    /// A string or null with a 16-bit length even in a flexible version: the client id of the header.
    pub(crate) fn header_string(&mut self, value: Option<&StrBytes>) -> Result<()> {
        self.i16(match string_len(value)? {
            None => -1,
            Some(len) => i16::try_from(len).map_err(|_| EncodeError::TooLong { len })?,
        });
        self.put(value.map_or(&[], StrBytes::as_bytes));
        Ok(())
    }

    /// A string.
    pub fn string(&mut self, value: &StrBytes) -> Result<()> {
        self.nullable_string(Some(value))
    }

    /// Bytes or null.
    pub fn nullable_bytes(&mut self, value: Option<&Bytes>) -> Result<()> {
        self.put_len(value.map(Bytes::len))?;
        self.put(value.map_or(&[], |bytes| bytes));
        Ok(())
    }

    /// Bytes.
    pub fn bytes(&mut self, value: &Bytes) -> Result<()> {
        self.nullable_bytes(Some(value))
    }

    /// Records or null; long runs are spliced in, not copied.
    pub fn nullable_records(&mut self, value: Option<&Records>) -> Result<()> {
        self.put_len(value.map(Records::len))?;
        for run in value.into_iter().flat_map(Records::chunks) {
            if run.len() < RECORDS_SPLICE_MIN {
                self.put(run);
            } else {
                self.spliced += run.len();
                self.splices.push((self.buffer.len(), run.clone()));
            }
        }
        let deferred = value.map_or(0, Records::deferred);
        if deferred > 0 {
            self.deferred += deferred;
            self.holes.push((self.buffer.len(), self.splices.len()));
        }
        Ok(())
    }

    /// A struct or null: a byte in front says which.
    pub fn nullable_struct<T: Wire>(&mut self, value: Option<&T>, version: i16) -> Result<()> {
        match value {
            None => {
                self.i8(-1);
                Ok(())
            }
            Some(value) => {
                self.i8(1);
                value.write(self, version)
            }
        }
    }

    /// An array or null.
    pub fn nullable_array<T: Wire>(&mut self, value: Option<&[T]>, version: i16) -> Result<()> {
        self.put_len(value.map(<[T]>::len))?;
        value.unwrap_or_default().iter().try_for_each(|element| element.write(self, version))
    }

    /// An array.
    pub fn array<T: Wire>(&mut self, value: &[T], version: i16) -> Result<()> {
        self.nullable_array(Some(value), version)
    }

    /// The end of a struct that has no tagged fields of its own.
    pub fn no_tags(&mut self) {
        if self.flexible {
            self.buffer.push(0);
        }
    }

    /// The end of a struct that may have tagged fields; each [`tag`](Self::tag) raises the count.
    pub fn begin_tags(&mut self) -> TagCount {
        let at = self.buffer.len();
        self.no_tags();
        TagCount(at)
    }

    /// One tagged field, in rising order of tags. The generator admits no struct with more than 127, so
    /// that the count is one byte; records are never inside.
    pub fn tag(
        &mut self,
        count: TagCount,
        tag: u32,
        value: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        debug_assert!(self.flexible, "tagged fields exist in flexible versions only");
        self.buffer[count.0] += 1;
        self.uvarint(tag);
        let start = self.buffer.len();
        value(self)?;
        let end = self.buffer.len();
        let size = u32::try_from(end - start).map_err(|_| EncodeError::TooLong { len: end - start })?;
        self.uvarint(size);
        let size_len = self.buffer.len() - end;
        self.buffer[start..].rotate_right(size_len);
        Ok(())
    }
}

fn string_len(value: Option<&StrBytes>) -> Result<Option<usize>> {
    match value.map(StrBytes::len) {
        Some(len) if len > STRING_BYTES_MAX => Err(EncodeError::TooLong { len }),
        len => Ok(len),
    }
}

/// Is the field in the version? If not, it must hold its default.
#[inline]
pub(crate) fn in_version(present: bool, is_default: bool, field: &'static str, version: i16) -> Result<bool> {
    if present || is_default { Ok(present) } else { Err(EncodeError::FieldNotInVersion { field, version }) }
}

/// Refuses null in the versions that do not allow it.
#[inline]
pub(crate) fn non_null<T>(
    allowed: bool,
    value: Option<T>,
    field: &'static str,
    version: i16,
) -> Result<Option<T>> {
    if value.is_none() && !allowed {
        return Err(EncodeError::NullNotInVersion { field, version });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flexible() -> Encoder {
        Encoder { flexible: true, ..Encoder::default() }
    }

    #[test]
    fn varints_round_trip() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, 1 << 21, (1 << 28) - 1, 1 << 28, u32::MAX] {
            let mut e = flexible();
            e.uvarint(value);
            let bytes = e.finish().to_bytes();
            assert_eq!(crate::Decoder::new(&bytes).uvarint(), Ok(value));
        }
    }

    #[test]
    fn long_records_are_spliced_and_short_ones_copied() {
        let long = Bytes::from(vec![7; RECORDS_SPLICE_MIN]);
        let short = Bytes::from(vec![8; RECORDS_SPLICE_MIN - 1]);
        let mut e = Encoder::new();
        e.i16(1);
        e.nullable_records(Some(&[long.clone(), short.clone(), long.clone()].into_iter().collect())).unwrap();
        e.i16(2);
        let expected_len = 2 + 4 + long.len() * 2 + short.len() + 2;
        assert_eq!(e.len(), expected_len);
        let frame = e.finish();
        assert_eq!(frame.len(), expected_len);
        let chunks: Vec<Bytes> = frame.clone().into_chunks().collect();
        assert_eq!(chunks.len(), 5);
        assert_eq!(chunks[1].as_ptr(), long.as_ptr(), "not copied");
        assert_eq!(chunks[2], short);
        assert_eq!(frame.to_bytes().len(), expected_len);
        assert_eq!(&frame.to_bytes()[2..6], &u32::try_from(expected_len - 8).unwrap().to_be_bytes());
    }

    #[test]
    fn a_tagged_field_gets_its_size_in_front() {
        let mut e = flexible();
        let tags = e.begin_tags();
        e.tag(tags, 3, |e| e.bytes(&Bytes::from(vec![9; 200]))).unwrap();
        e.tag(tags, 4, |e| e.string(&"x".into())).unwrap();
        let bytes = e.finish().to_bytes();
        assert_eq!(bytes[..6], [2, 3, 202, 1, 201, 1]);
        assert_eq!(bytes[bytes.len() - 4..], [4, 2, 2, b'x']);
    }

    #[test]
    fn strings_too_long_for_any_peer_are_refused() {
        let text = StrBytes::from("x".repeat(STRING_BYTES_MAX + 1));
        let too_long = Err(EncodeError::TooLong { len: STRING_BYTES_MAX + 1 });
        assert_eq!(flexible().string(&text), too_long);
        assert_eq!(Encoder::new().string(&text), too_long);
    }
}
