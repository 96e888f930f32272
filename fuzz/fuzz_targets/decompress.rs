//! Decompresses; the first byte chooses the codec.
//!
//! Beyond not panicking: never more than the bound, and what comes as a stream is what comes at once.
#![no_main]

use std::io::Read as _;

use ferrymq_compress::{compress, decompress, reader};
use ferrymq_types::Compression;
use libfuzzer_sys::fuzz_target;

const BYTES_MAX: usize = 1 << 20;
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fuzz_target!(|data: &[u8]| {
    let [chosen, input @ ..] = data else { return };
    let codec = CODECS[usize::from(*chosen) % CODECS.len()];
    let mut streamed = Vec::new();
    let streaming = reader(codec, input, BYTES_MAX).is_ok_and(|mut from| from.read_to_end(&mut streamed).is_ok());
    assert!(streamed.len() <= BYTES_MAX);
    if let Ok(whole) = decompress(codec, input, BYTES_MAX) {
        assert!(whole.len() <= BYTES_MAX);
        assert!(streaming && whole == streamed, "{codec:?}");
        let again = compress(codec, &whole).expect("what was decompressed can be compressed");
        assert_eq!(decompress(codec, &again, BYTES_MAX).expect("and decompressed"), whole);
    }
});
