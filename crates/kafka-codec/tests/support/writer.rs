//! Writes random valid messages straight from the schema, in the one canonical form: tagged fields in
//! rising order, and only those that do not hold their default.
//!
//! It shares nothing with the codec, so that a mistake has to be made twice to go unseen.

use crate::support::schema::{Field, Message};

/// A small seeded generator (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

struct Writer<'a> {
    out: Vec<u8>,
    version: i16,
    flexible: bool,
    random: &'a mut Random,
    cram: Option<Cram>,
}

/// How to make a message that takes as much memory per byte as it can.
#[derive(Debug, Clone, Copy)]
struct Cram {
    /// Arrays inside this many others get all the elements; those around them get one.
    depth: usize,
    count: usize,
}

/// A message whose arrays at `depth` have `count` elements of the least size, its other fields defaults.
pub(crate) fn crammed(message: &Message, version: i16, depth: usize, count: usize) -> Vec<u8> {
    let flexible = version >= message.flexible_since;
    let cram = Some(Cram { depth, count });
    let mut writer = Writer { out: Vec::new(), version, flexible, random: &mut Random(0), cram };
    writer.fields(&message.fields, true);
    writer.out
}

/// The body of a random valid message.
pub(crate) fn valid(message: &Message, version: i16, random: &mut Random) -> Vec<u8> {
    let flexible = version >= message.flexible_since;
    let mut writer = Writer { out: Vec::new(), version, flexible, random, cram: None };
    writer.fields(&message.fields, false);
    writer.out
}

impl Writer<'_> {
    fn fields(&mut self, fields: &[Field], defaults: bool) {
        let present = |f: &&Field| f.versions.contains(&self.version);
        let (plain, tagged): (Vec<_>, Vec<_>) = fields.iter().filter(present).partition(|f| f.tag.is_none());
        for field in plain {
            self.field(field, defaults);
        }
        if !self.flexible {
            return;
        }
        let mut written = Vec::new();
        for field in tagged.iter().filter(|_| !defaults) {
            let value = self.apart(|w| w.field(field, false));
            let default = self.apart(|w| w.field(field, true));
            if value != default && !self.random.one_in(3) {
                written.push((field.tag.unwrap(), value));
            }
        }
        written.sort();
        self.uvarint(written.len());
        for (tag, value) in written {
            self.uvarint(tag.try_into().unwrap());
            self.uvarint(value.len());
            self.out.extend(value);
        }
    }

    fn apart(&mut self, write: impl FnOnce(&mut Self)) -> Vec<u8> {
        let before = std::mem::take(&mut self.out);
        write(self);
        std::mem::replace(&mut self.out, before)
    }

    fn field(&mut self, field: &Field, default: bool) {
        let nullable = field.is_nullable(self.version);
        let null = nullable && if default { field.default == "null" } else { self.random.one_in(5) };
        if field.is_array {
            if let Some(cram) = self.cram {
                return self.crammed_array(field, cram);
            }
            if null {
                return self.null(4);
            }
            let count = if default { 0 } else { self.random.below(4) };
            self.len(count, 4);
            for _ in 0..count {
                self.value(field, "", false);
            }
            return;
        }
        match field.kind.as_str() {
            "string" if null => self.null(2),
            "bytes" | "records" if null => self.null(4),
            "struct" if null => self.out.push(0xff),
            "struct" if nullable => {
                self.out.push(1);
                self.value(field, "", default);
            }
            _ => self.value(field, &field.default, default),
        }
    }

    fn crammed_array(&mut self, field: &Field, cram: Cram) {
        let (count, inside) = match cram.depth {
            0 => (cram.count, Cram { depth: 0, count: 0 }),
            depth => (1, Cram { depth: depth - 1, ..cram }),
        };
        self.len(count, 4);
        self.cram = Some(inside);
        for _ in 0..count {
            self.value(field, "", true);
        }
        self.cram = Some(cram);
    }

    /// A value that is not null: random, or what the schema's default says.
    fn value(&mut self, field: &Field, text: &str, default: bool) {
        let int = |random: &mut Random| match default {
            true if text.is_empty() => 0,
            true if text.starts_with("0x") => i64::from_str_radix(&text[2..], 16).unwrap(),
            true => text.parse().unwrap(),
            // Small numbers and all bit patterns alike.
            false if random.one_in(2) => i64::try_from(random.below(7)).unwrap() - 2,
            false => i64::from_be_bytes(random.next().to_be_bytes()),
        };
        match field.kind.as_str() {
            "bool" if default => self.out.push((text == "true").into()),
            "bool" => self.out.push(self.random.one_in(2).into()),
            "int8" => self.out.extend(&int(self.random).to_be_bytes()[7..]),
            "int16" | "uint16" => self.out.extend(&int(self.random).to_be_bytes()[6..]),
            "int32" => self.out.extend(&int(self.random).to_be_bytes()[4..]),
            "int64" => self.out.extend(int(self.random).to_be_bytes()),
            "float64" => {
                let value = if default { 0.0 } else { self.random.below(1000) as f64 / 8.0 };
                self.out.extend(value.to_be_bytes());
            }
            "uuid" => {
                let value = if default { vec![0; 16] } else { self.random.bytes(16) };
                self.out.extend(value);
            }
            "string" => {
                let value = if default { text.to_owned() } else { self.text() };
                self.len(value.len(), 2);
                self.out.extend(value.as_bytes());
            }
            "bytes" | "records" => {
                // Some records long enough to be spliced.
                let len = if default { 0 } else { self.random.below(20) };
                let len = if field.kind == "records" && self.random.one_in(3) { len + 600 } else { len };
                let value = self.random.bytes(len);
                self.len(value.len(), 4);
                self.out.extend(value);
            }
            "struct" => self.fields(&field.fields, default),
            other => panic!("type {other}"),
        }
    }

    fn text(&mut self) -> String {
        const LETTERS: [&str; 12] = ["a", "b", "topic", "-", "7", "\"", "\\", "{", "ü", "日", "🦀", "Z"];
        (0..self.random.below(6)).map(|_| LETTERS[self.random.below(LETTERS.len())]).collect()
    }

    fn len(&mut self, len: usize, width: usize) {
        if self.flexible {
            return self.uvarint(len + 1);
        }
        self.out.extend(&u64::try_from(len).unwrap().to_be_bytes()[8 - width..]);
    }

    fn null(&mut self, width: usize) {
        if self.flexible {
            return self.out.push(0);
        }
        self.out.extend(&[0xff; 8][..width]);
    }

    fn uvarint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        self.out.push(u8::try_from(value).unwrap());
    }
}
