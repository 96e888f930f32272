//! Round trips, known vectors, bombs, cut and damaged input.

use std::io::Read as _;

use bytes::Bytes;
use ferrymq_types::Compression;
use proptest::prelude::*;

use crate::{CompressError, compress, decompress, reader};

const ALL: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
const MIB: usize = 1 << 20;

fn text(bytes: usize) -> Vec<u8> {
    b"the quick brown fox jumps over the lazy dog; ".iter().copied().cycle().take(bytes).collect()
}

fn check(codec: Compression, packed: &[u8], expected: &[u8]) {
    assert_eq!(decompress(codec, packed, MIB).as_deref(), Ok(expected), "{codec:?}");
}

#[test]
fn round_trips_at_and_below_the_bound() {
    for codec in ALL {
        for size in [0, 1, 100, 32 * 1024, 32 * 1024 + 1, 200_000, MIB] {
            let input = text(size);
            let packed = compress(codec, &input).unwrap();
            check(codec, &packed, &input);
            if size > 0 {
                let refused = decompress(codec, &packed, size - 1);
                let expected = CompressError::TooLarge { codec: codec.name(), max_bytes: size - 1 };
                assert_eq!(refused, Err(expected), "{codec:?} {size}");
            }
        }
    }
}

#[test]
fn bombs_are_refused_at_the_bound() {
    let zeros = vec![0; 64 * MIB];
    for codec in ALL {
        let packed = compress(codec, &zeros).unwrap();
        assert!(matches!(decompress(codec, &packed, MIB), Err(CompressError::TooLarge { .. })), "{codec:?}");
    }
    // A block that only claims to be large is refused without taking memory for it.
    let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, 0x41];
    assert!(matches!(
        decompress(Compression::Snappy, &claim, usize::MAX),
        Err(CompressError::Corrupt { .. })
    ));
}

#[test]
fn every_cut_is_an_error() {
    let input = text(70_000);
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let packed = compress(codec, &input).unwrap();
        for cut in 0..packed.len() {
            let got = decompress(codec, &packed[..cut], MIB);
            // Xerial's framing has no end mark: a cut between blocks reads as a shorter stream.
            let between_blocks =
                codec == Compression::Snappy && got.as_ref().is_ok_and(|b| b.len() % 32768 == 0);
            assert!(got.is_err() || between_blocks, "{codec:?} cut at {cut} of {}", packed.len());
        }
    }
}

#[test]
fn bytes_behind_the_end_are_an_error() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let mut packed = compress(codec, b"hello").unwrap();
        packed.extend_from_slice(b"trailing");
        assert!(decompress(codec, &packed, MIB).is_err(), "{codec:?}");
    }
}

#[test]
fn snappy_as_others_write_it() {
    // One bare block: length 5, then a literal of 5 bytes.
    let bare = [5, 4 << 2, b'h', b'e', b'l', b'l', b'o'];
    check(Compression::Snappy, &bare, b"hello");
    let head = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
    let block = |out: &mut Vec<u8>| {
        out.extend_from_slice(&7i32.to_be_bytes());
        out.extend_from_slice(&bare);
    };
    let mut framed = head.to_vec();
    block(&mut framed);
    block(&mut framed);
    check(Compression::Snappy, &framed, b"hellohello");
    // Streams one after another.
    framed.extend_from_slice(head);
    block(&mut framed);
    check(Compression::Snappy, &framed, b"hellohellohello");
    check(Compression::Snappy, head, b"");
    for bad in
        [&b"\x82SNAPPY\0\0\0"[..], b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff", b"\x00\x41", b""]
    {
        let got = decompress(Compression::Snappy, bad, MIB);
        assert!(matches!(got, Err(CompressError::Corrupt { .. })), "{bad:?} {got:?}");
    }
}

#[test]
fn gzip_and_zstd_as_others_write_them() {
    // `printf hello | gzip -n`, twice: members one after another are one stream.
    let member = [
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36, 5, 0,
        0, 0,
    ];
    check(Compression::Gzip, &member, b"hello");
    check(Compression::Gzip, &[member, member].concat(), b"hellohello");
    // `printf hello | zstd --no-check`: one raw block, no content size.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58, 0x29, 0, 0, b'h', b'e', b'l', b'l', b'o'];
    check(Compression::Zstd, &frame, b"hello");
}

/// Descriptor, header checksum and one stored block: a frame without content size.
fn lz4_frame(flags: u8, header_checksum: u8) -> Vec<u8> {
    let mut frame = vec![0x04, 0x22, 0x4d, 0x18, flags, 0x40, header_checksum];
    frame.extend_from_slice(&(5u32 | 1 << 31).to_le_bytes());
    frame.extend_from_slice(b"hello\0\0\0\0");
    frame
}

#[test]
fn lz4_frames_are_held_to_the_format() {
    // 0x82 is the second byte of xxh32([0x60, 0x40]): the well-known header of Kafka's producers.
    check(Compression::Lz4, &lz4_frame(0x60, 0x82), b"hello");
    let legacy = [0x02, 0x21, 0x4c, 0x18, 6, 0, 0, 0, 0x50, b'h', b'e', b'l', b'l', b'o'];
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0];
    for bad in [&lz4_frame(0x60, 0x83)[..], &lz4_frame(0x40, 0xc0), &legacy, &skippable] {
        let got = decompress(Compression::Lz4, bad, MIB);
        assert!(matches!(got, Err(CompressError::Corrupt { .. })), "{bad:x?} {got:?}");
    }
}

proptest! {
    #[test]
    fn anything_comes_back(input in proptest::collection::vec(any::<u8>(), 0..5000)) {
        for codec in ALL {
            let packed = compress(codec, &input).unwrap();
            prop_assert_eq!(decompress(codec, &packed, 5000).unwrap(), Bytes::from(input.clone()));
        }
    }

    #[test]
    fn garbage_and_flips_never_panic(
        garbage in proptest::collection::vec(any::<u8>(), 0..300),
        flip in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        for codec in ALL {
            let _ = decompress(codec, &garbage, 4096);
            let mut packed = compress(codec, &text(3000)).unwrap();
            let at = flip.index(packed.len());
            packed[at] ^= 1 << bit;
            if let Ok(bytes) = decompress(codec, &packed, 4096) {
                prop_assert!(bytes.len() <= 4096);
            }
        }
    }
}

#[test]
fn a_reader_gives_the_same_and_no_more_than_wanted() {
    let input: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    for codec in ALL {
        let packed = compress(codec, &input).unwrap();
        let mut out = Vec::new();
        reader(codec, &packed, input.len()).unwrap().read_to_end(&mut out).unwrap();
        assert!(out == input, "{codec:?}");
        if codec != Compression::Snappy {
            out.clear();
            reader(codec, &packed, 1000).unwrap().read_to_end(&mut out).unwrap();
            assert_eq!(out, input[..1000], "{codec:?}");
        }
        if codec != Compression::None {
            let cut = reader(codec, &packed[..packed.len() / 2], input.len());
            assert!(cut.is_err() || cut.is_ok_and(|mut reader| reader.read_to_end(&mut out).is_err()));
            assert!(reader(codec, b"", 10).is_err() || codec != Compression::Zstd);
        }
    }
}
