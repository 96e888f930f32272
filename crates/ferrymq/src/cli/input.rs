//! What `produce` reads: stdin cut at a delimiter, or whole files.
//!
//! **Invariants.** Stdin is read by a thread of its own, so that what was read is sent while more is awaited; it
//! is at most a few chunks ahead. A record is at most [`RECORD_BYTES_MAX`] long.

use std::io::{self, Read as _};
use std::path::Path;

use tokio::sync::mpsc;

use super::format::find;

/// Largest record that is read: what a topic's `max.message.bytes` can be raised to.
pub(crate) const RECORD_BYTES_MAX: usize = ferrymq_types::limits::BATCH_BYTES_MAX;

const CHUNK_BYTES: usize = 64 * 1024;
const CHUNKS_AHEAD: usize = 4;

/// Stdin, cut at a delimiter. The end of the input ends the last record.
pub(crate) struct Delimited {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    delimiter: Vec<u8>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were handed out.
    used: usize,
    ended: bool,
}

impl Delimited {
    /// Begins to read stdin.
    pub(crate) fn stdin(delimiter: Vec<u8>) -> io::Result<Delimited> {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        ferrymq_runtime::spawn_thread("stdin", move || {
            let mut stdin = io::stdin().lock();
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let read = stdin.read(&mut chunk);
                let end = !matches!(read, Ok(count) if count > 0);
                let sent = sender.blocking_send(read.map(|count| {
                    chunk.truncate(count);
                    chunk
                }));
                if end || sent.is_err() {
                    return;
                }
            }
        })?;
        Ok(Delimited::new(chunks, delimiter))
    }

    fn new(chunks: mpsc::Receiver<io::Result<Vec<u8>>>, delimiter: Vec<u8>) -> Delimited {
        Delimited { chunks, delimiter, buffer: Vec::new(), used: 0, ended: false }
    }

    /// The next record; `None` at the end. Cancel safety: a dropped wait loses nothing.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<&[u8]>> {
        let mut searched = self.used;
        loop {
            if let Some(at) = find(&self.buffer[searched..], &self.delimiter) {
                let (start, end) = (self.used, searched + at);
                self.used = end + self.delimiter.len();
                return Ok(Some(&self.buffer[start..end]));
            }
            if self.ended {
                let start = std::mem::replace(&mut self.used, self.buffer.len());
                return Ok((start < self.buffer.len()).then_some(&self.buffer[start..]));
            }
            anyhow::ensure!(
                self.buffer.len() - self.used <= RECORD_BYTES_MAX,
                "no delimiter within {RECORD_BYTES_MAX} bytes of input: is --delimiter right?"
            );
            self.buffer.drain(..self.used);
            self.used = 0;
            // The delimiter may begin at the end of one chunk and end in the next.
            searched = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
            match self.chunks.recv().await {
                Some(Ok(chunk)) if !chunk.is_empty() => self.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => return Err(error.into()),
                _ => self.ended = true,
            }
        }
    }
}

/// One whole file; `-` is stdin.
pub(crate) fn whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = RECORD_BYTES_MAX as u64 + 1;
    if path.as_os_str() == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    }
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(io::Error::other(format!("larger than a record can be ({RECORD_BYTES_MAX} bytes)")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn cut(chunks: &[&str], delimiter: &str) -> Vec<String> {
        let (sender, receiver) = mpsc::channel(chunks.len() + 1);
        for chunk in chunks {
            sender.send(Ok(chunk.as_bytes().to_vec())).await.unwrap();
        }
        sender.send(Ok(Vec::new())).await.unwrap();
        let mut input = Delimited::new(receiver, delimiter.as_bytes().to_vec());
        let mut records = Vec::new();
        while let Some(record) = input.next().await.unwrap() {
            records.push(String::from_utf8(record.to_vec()).unwrap());
        }
        records
    }

    #[tokio::test]
    async fn records_end_at_delimiters_and_at_the_end() {
        assert_eq!(cut(&["a\nb", "b\n\nc"], "\n").await, ["a", "bb", "", "c"]);
        assert_eq!(cut(&["a\n"], "\n").await, ["a"], "no empty record after the last line");
        assert_eq!(cut(&["a-", "-b", "--", "c-d"], "--").await, ["a", "b", "c-d"]);
        assert!(cut(&[], "\n").await.is_empty());
    }
}
