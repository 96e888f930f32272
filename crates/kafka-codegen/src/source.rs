//! Finds the descriptor files: a directory of `*.json`, or the kafka-clients jar that ships them.
//!
//! The zip reader knows what a jar needs (stored and deflated entries through the central directory) and
//! nothing more: no zip64, no encryption.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

const DIRECTORY: &str = "common/message/";

/// Returns `(file name, text)` of every message descriptor under `path`.
pub(crate) fn read(path: &Path) -> Result<Vec<(String, String)>> {
    let mut files = if path.is_dir() { read_directory(path)? } else { read_jar(path)? };
    if files.is_empty() {
        bail!("no message descriptors in {}", path.display());
    }
    files.sort();
    Ok(files)
}

fn read_directory(path: &Path) -> Result<Vec<(String, String)>> {
    let nested = path.join(DIRECTORY);
    let path = if nested.is_dir() { nested } else { path.to_owned() };
    let mut files = Vec::new();
    for entry in fs::read_dir(&path).with_context(|| format!("read {}", path.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            files.push((name, fs::read_to_string(entry.path())?));
        }
    }
    Ok(files)
}

fn read_jar(path: &Path) -> Result<Vec<(String, String)>> {
    let jar = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let end = jar.windows(4).rposition(|w| w == b"PK\x05\x06").context("not a zip file")?;
    let mut at = u32_at(&jar, end + 16)?;
    let mut files = Vec::new();
    for _ in 0..u16_at(&jar, end + 10)? {
        if jar.get(at..at + 4) != Some(b"PK\x01\x02") {
            bail!("damaged central directory");
        }
        let method = u16_at(&jar, at + 10)?;
        let packed = u32_at(&jar, at + 20)?;
        let name_len = u16_at(&jar, at + 28)?;
        let skip = u16_at(&jar, at + 30)? + u16_at(&jar, at + 32)?;
        let local = u32_at(&jar, at + 42)?;
        let name = String::from_utf8_lossy(jar.get(at + 46..at + 46 + name_len).context("short entry")?);
        if let Some(file) = name.strip_prefix(DIRECTORY).filter(|file| file.ends_with(".json")) {
            let start = local + 30 + u16_at(&jar, local + 26)? + u16_at(&jar, local + 28)?;
            let data = jar.get(start..start + packed).context("short entry")?;
            files.push((file.to_owned(), unpack(method, data).with_context(|| name.to_string())?));
        }
        at += 46 + name_len + skip;
    }
    Ok(files)
}

fn unpack(method: usize, data: &[u8]) -> Result<String> {
    let mut text = String::new();
    match method {
        0 => text.push_str(std::str::from_utf8(data)?),
        8 => {
            flate2::read::DeflateDecoder::new(data).read_to_string(&mut text)?;
        }
        other => bail!("zip method {other}"),
    }
    Ok(text)
}

fn u16_at(data: &[u8], at: usize) -> Result<usize> {
    let bytes = data.get(at..at + 2).context("short zip")?;
    Ok(usize::from(bytes[0]) | usize::from(bytes[1]) << 8)
}

fn u32_at(data: &[u8], at: usize) -> Result<usize> {
    Ok(u16_at(data, at)? | u16_at(data, at + 2)? << 16)
}
