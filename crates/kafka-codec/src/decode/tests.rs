//! The primitives of the reader, by hand-written bytes.

use super::*;

fn check<T: PartialEq + fmt::Debug>(
    bytes: &[u8],
    flexible: bool,
    read: impl FnOnce(&mut Decoder<'_>) -> Result<T>,
    expected: Result<T>,
) {
    let frame = Bytes::copy_from_slice(bytes);
    let mut decoder = Decoder::new(&frame);
    decoder.set_flexible(flexible);
    assert_eq!(read(&mut decoder), expected, "{bytes:x?} flexible={flexible}");
}

#[test]
fn varints() {
    check(&[0], true, |d| d.uvarint(), Ok(0));
    check(&[0x7f], true, |d| d.uvarint(), Ok(127));
    check(&[0x80, 0x01], true, |d| d.uvarint(), Ok(128));
    check(&[0xff, 0xff, 0xff, 0xff, 0x0f], true, |d| d.uvarint(), Ok(u32::MAX));
    check(&[0xff, 0xff, 0xff, 0xff, 0x1f], true, |d| d.uvarint(), Err(DecodeError::VarintTooLong));
    check(&[0x80, 0x80, 0x80, 0x80, 0x80, 0], true, |d| d.uvarint(), Err(DecodeError::VarintTooLong));
    check(&[0x80, 0x80], true, |d| d.uvarint(), Err(DecodeError::Truncated));
    check(&[], true, |d| d.uvarint(), Err(DecodeError::Truncated));
}

#[test]
fn strings() {
    check(&[0, 2, b'h', b'i'], false, |d| d.string(), Ok("hi".into()));
    check(&[3, b'h', b'i'], true, |d| d.string(), Ok("hi".into()));
    check(&[0xff, 0xff], false, |d| d.nullable_string(), Ok(None));
    check(&[0], true, |d| d.nullable_string(), Ok(None));
    check(&[0xff, 0xff], false, |d| d.string(), Err(DecodeError::InvalidNull));
    check(&[0], true, |d| d.string(), Err(DecodeError::InvalidNull));
    check(&[0xff, 0xfe], false, |d| d.string(), Err(DecodeError::InvalidLength));
    check(&[0, 3, b'h', b'i'], false, |d| d.string(), Err(DecodeError::Truncated));
    check(&[3, 0xc3, 0x28], true, |d| d.string(), Err(DecodeError::InvalidUtf8));
    check(&[0x81, 0x80, 0x02], true, |d| d.string(), Err(DecodeError::InvalidLength));
}

#[test]
fn arrays_are_bounded_by_what_is_left() {
    let ints = |d: &mut Decoder<'_>| d.array::<i32>(0);
    check(&[0, 0, 0, 1, 0, 0, 0, 7], false, ints, Ok(vec![7]));
    check(&[2, 0, 0, 0, 7], true, ints, Ok(vec![7]));
    check(&[0, 0, 0, 2, 0, 0, 0, 7], false, ints, Err(DecodeError::InvalidLength));
    check(&[0x7f, 0xff, 0xff, 0xff], false, ints, Err(DecodeError::InvalidLength));
    check(&[0xff, 0xff, 0xff, 0xff, 0x0f], true, ints, Err(DecodeError::InvalidLength));
    check(&[0xff, 0xff, 0xff, 0xff], false, ints, Err(DecodeError::InvalidNull));
    check(&[0x80, 0, 0, 0], false, ints, Err(DecodeError::InvalidLength));
    check(&[0], true, |d| d.nullable_array::<i32>(0), Ok(None));
}

#[test]
fn arrays_are_bounded_in_memory() {
    // A thousand empty compact strings: one byte each on the wire, a `StrBytes` each in memory.
    let frame = Bytes::from([&[0xe9, 0x07][..], &[1; 1000]].concat());
    let mut decoder = Decoder::with_memory_limit(&frame, 1000 * size_of::<StrBytes>());
    decoder.set_flexible(true);
    assert_eq!(decoder.array::<StrBytes>(0).map(|a| a.len()), Ok(1000));
    let mut decoder = Decoder::with_memory_limit(&frame, 999 * size_of::<StrBytes>());
    decoder.set_flexible(true);
    assert_eq!(decoder.array::<StrBytes>(0), Err(DecodeError::MemoryLimit));
}

#[test]
fn a_lie_about_a_count_costs_little() {
    // A thousand strings are promised, as many bytes follow, and the first of them is no string.
    let frame = Bytes::from([&[0xe9, 0x07][..], &[0; 1000]].concat());
    let memory = allocation_counter::measure(|| {
        let mut decoder = Decoder::new(&frame);
        decoder.set_flexible(true);
        assert_eq!(decoder.array::<StrBytes>(0), Err(DecodeError::InvalidNull));
    });
    assert!(memory.bytes_max <= 1000 * RESERVE_PER_BYTE as u64, "{memory:?}");
}

#[test]
fn tagged_fields() {
    let tags = |d: &mut Decoder<'_>| {
        let mut seen = Vec::new();
        d.tags(|d, tag| {
            if tag == 9 {
                return Ok(false);
            }
            seen.push((tag, d.i16()?));
            Ok(true)
        })?;
        Ok((seen, d.remaining()))
    };
    check(&[0, 5], true, tags, Ok((vec![], 1)));
    check(&[5], false, tags, Ok((vec![], 1)));
    check(&[2, 9, 3, 1, 1, 1, 4, 2, 0, 8], true, tags, Ok((vec![(4, 8)], 0)));
    check(&[1, 4, 3, 0, 8, 0], true, tags, Err(DecodeError::InvalidTagSize));
    check(&[1, 4, 1, 0, 8], true, tags, Err(DecodeError::Truncated));
    check(&[1, 9, 3, 0, 8], true, tags, Err(DecodeError::Truncated));
    check(&[0xff, 0xff, 0xff, 0xff, 0x0f, 9, 0], true, tags, Err(DecodeError::Truncated));
}

#[test]
fn values_are_slices_of_the_frame() {
    let frame = Bytes::from(vec![0, 2, b'h', b'i', 0, 0, 0, 2, 1, 2, 9]);
    let mut decoder = Decoder::new(&frame);
    assert_eq!(decoder.string().unwrap().as_bytes().as_ptr(), frame[2..].as_ptr());
    assert_eq!(decoder.bytes().unwrap().as_ptr(), frame[8..].as_ptr());
    assert_eq!(decoder.finish(), Err(DecodeError::TrailingBytes { count: 1 }));
}
