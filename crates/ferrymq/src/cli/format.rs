//! Format strings, for printing records and for taking input apart. kcat's and rpk's letters where they agree.
//!
//! ```text
//!   %t topic   %p partition   %o offset    %T timestamp in ms
//!   %k key     %v value (%s)  %h headers   %K %V their lengths in bytes, -1 for null
//!   %% percent   \n \t \r \0 \\ \xNN
//! ```

use ferrymq_kafka_client::ConsumedRecord;

use super::units::parse_escaped;

/// One piece of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
    KeyBytes,
    ValueBytes,
}

/// A parsed format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format {
    pieces: Vec<Piece>,
    null: Vec<u8>,
}

/// A record taken apart by a format.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) partition: Option<u32>,
    pub(crate) timestamp: Option<i64>,
}

impl Format {
    /// Parses a format; `null` is printed for null keys and values.
    pub(crate) fn parse(text: &str, null: &str) -> Result<Format, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                literal.push(c);
                // The character behind a backslash is never the start of a field.
                if c == '\\' {
                    literal.extend(rest.next());
                }
                continue;
            }
            let piece = match rest.next() {
                Some('%') => {
                    literal.push('%');
                    continue;
                }
                Some('t') => Piece::Topic,
                Some('p') => Piece::Partition,
                Some('o') => Piece::Offset,
                Some('T') => Piece::Timestamp,
                Some('k') => Piece::Key,
                Some('v' | 's') => Piece::Value,
                Some('h') => Piece::Headers,
                Some('K') => Piece::KeyBytes,
                Some('V' | 'S') => Piece::ValueBytes,
                Some(other) => return Err(format!("unknown field %{other}: t p o T k v h K V or %%")),
                None => return Err("a lone % at the end; %% prints one".to_owned()),
            };
            push_literal(&mut pieces, &mut literal)?;
            pieces.push(piece);
        }
        push_literal(&mut pieces, &mut literal)?;
        Ok(Format { pieces, null: null.as_bytes().to_vec() })
    }

    /// Appends a record to `out`.
    pub(crate) fn write(&self, topic: &str, partition: u32, record: &ConsumedRecord, out: &mut Vec<u8>) {
        let length = |field: &Option<bytes::Bytes>| {
            field.as_ref().map_or_else(|| "-1".to_owned(), |field| field.len().to_string())
        };
        for piece in &self.pieces {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Topic => out.extend_from_slice(topic.as_bytes()),
                Piece::Partition => out.extend_from_slice(partition.to_string().as_bytes()),
                Piece::Offset => out.extend_from_slice(record.offset.to_string().as_bytes()),
                Piece::Timestamp => out.extend_from_slice(record.timestamp.to_string().as_bytes()),
                Piece::Key => out.extend_from_slice(record.key.as_deref().unwrap_or(&self.null)),
                Piece::Value => out.extend_from_slice(record.value.as_deref().unwrap_or(&self.null)),
                Piece::KeyBytes => out.extend_from_slice(length(&record.key).as_bytes()),
                Piece::ValueBytes => out.extend_from_slice(length(&record.value).as_bytes()),
                Piece::Headers => {
                    for (index, header) in record.headers.iter().enumerate() {
                        out.extend_from_slice(if index > 0 { b"," } else { b"" });
                        out.extend_from_slice(&header.key);
                        out.push(b'=');
                        out.extend_from_slice(header.value.as_deref().unwrap_or(&self.null));
                    }
                }
            }
        }
    }

    /// Whether input can be taken apart by it: fields that a producer sets, with text between them.
    pub(crate) fn check_input(&self) -> Result<(), String> {
        let is_field = |piece: &Piece| !matches!(piece, Piece::Literal(_));
        if self.pieces.windows(2).any(|two| two.iter().all(is_field)) {
            return Err("two fields need text between them to be told apart".to_owned());
        }
        let settable =
            |piece: &Piece| matches!(piece, Piece::Key | Piece::Value | Piece::Partition | Piece::Timestamp);
        match self.pieces.iter().find(|piece| is_field(piece) && !settable(piece)) {
            Some(_) => Err("only %k %v %p and %T can be set by a producer".to_owned()),
            None => Ok(()),
        }
    }

    /// Takes one record's bytes apart: a field reaches to the next literal, the last one to the end.
    pub(crate) fn read<'a>(&self, input: &'a [u8]) -> Result<Parsed<'a>, String> {
        let mut parsed = Parsed::default();
        let mut rest = input;
        let mut pieces = self.pieces.iter().peekable();
        while let Some(piece) = pieces.next() {
            if let Piece::Literal(literal) = piece {
                rest = rest.strip_prefix(&literal[..]).ok_or_else(|| missing(literal))?;
                continue;
            }
            let end = match pieces.peek() {
                Some(Piece::Literal(literal)) => find(rest, literal).ok_or_else(|| missing(literal))?,
                _ => rest.len(),
            };
            let (field, behind) = rest.split_at(end);
            rest = behind;
            let number = || std::str::from_utf8(field).ok().and_then(|text| text.trim().parse::<i64>().ok());
            match piece {
                Piece::Key => parsed.key = Some(field),
                Piece::Value => parsed.value = Some(field),
                Piece::Timestamp => parsed.timestamp = Some(number().ok_or("the timestamp is not a number")?),
                _ => {
                    let partition = number().and_then(|number| u32::try_from(number).ok());
                    parsed.partition = Some(partition.ok_or("the partition is not a number")?);
                }
            }
        }
        if rest.is_empty() { Ok(parsed) } else { Err("there is more than the format says".to_owned()) }
    }
}

fn push_literal(pieces: &mut Vec<Piece>, literal: &mut String) -> Result<(), String> {
    if !literal.is_empty() {
        pieces.push(Piece::Literal(parse_escaped(literal)?));
        literal.clear();
    }
    Ok(())
}

fn missing(literal: &[u8]) -> String {
    format!("`{}` is missing", literal.escape_ascii())
}

/// Where `needle` first begins in `haystack`.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    match needle {
        [] => Some(0),
        [one] => haystack.iter().position(|byte| byte == one),
        _ => haystack.windows(needle.len()).position(|window| window == needle),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrymq_types::Header;

    fn record() -> ConsumedRecord {
        let header = |key: &'static str, value| Header { key: key.into(), value };
        ConsumedRecord {
            offset: 42,
            timestamp: 1_700_000_000_000,
            key: None,
            value: Some("caf\u{e9}".into()),
            headers: vec![header("a", Some("1".into())), header("b", None)],
        }
    }

    #[test]
    fn records_are_printed() {
        let check = |format: &str, expected: &str| {
            let mut out = Vec::new();
            Format::parse(format, "NULL").unwrap().write("orders", 3, &record(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
        };
        check("%t %p %o %k %v %h\\n", "orders 3 42 NULL café a=1,b=NULL\n");
        check("%T\\t%K/%V %s%%", "1700000000000\t-1/5 café%");
        check("\\x41\\\\%v", "A\\café");
        check("", "");
    }

    #[test]
    fn bad_formats_are_refused() {
        for bad in ["%", "%x", "a\\q", "%v\\"] {
            assert!(Format::parse(bad, "").is_err(), "{bad}");
        }
        for bad in ["%k%v", "%o %v", "%h"] {
            assert!(Format::parse(bad, "").unwrap().check_input().is_err(), "{bad}");
        }
    }

    #[test]
    fn input_is_taken_apart() {
        let format = Format::parse("%p|%k => %v", "").unwrap();
        format.check_input().unwrap();
        let parsed = format.read(b"2|key => a => b").unwrap();
        let expected =
            Parsed { key: Some(b"key"), value: Some(b"a => b"), partition: Some(2), timestamp: None };
        assert_eq!(parsed, expected);
        for bad in [&b"2|key"[..], b"x|k => v", b"-1|k => v", b""] {
            assert!(format.read(bad).is_err(), "{bad:?}");
        }
        let quoted = Format::parse("<%v>", "").unwrap();
        assert_eq!(quoted.read(b"<a>").unwrap().value, Some(&b"a"[..]));
        assert!(quoted.read(b"<a>b").is_err());
        assert_eq!(Format::parse("%T %v", "").unwrap().read(b"12 ").unwrap().timestamp, Some(12));
    }
}
