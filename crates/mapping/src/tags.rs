//! The header `amqp.t`: what a record's headers do not say of the message by themselves.
//!
//! ```text
//! amqp.t = [u] [h] { index tag [!] }      index in decimal digits, tag as on the wire
//! ```
//! `u`: the flag that stands for nothing is set; `h`: there is a table of headers and it is empty. An index counts the
//! record's headers from 0; its tag is the type of that header in AMQP, followed by `!` if the value is the wire's and not
//! text. A header without a tag is `S` if it is UTF-8, `x` if it is not, and `V` if it is null. A header of the publisher
//! with a name that begins with `amqp.` has a tag always.
//!
//! **Invariant.** There is one way to write a list; what was written otherwise is not one of ours.

use crate::properties::parse_digits;

/// The name of the header.
pub(crate) const NAME: &str = "amqp.t";

/// What the header says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags {
    pub(crate) unused_flag: bool,
    pub(crate) empty_table: bool,
    /// Index, tag, and whether the value is raw; indexes rise.
    pub(crate) list: Vec<(usize, u8, bool)>,
}

impl Tags {
    /// Whether there is nothing to say.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Tags::default()
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.unused_flag {
            out.push(b'u');
        }
        if self.empty_table {
            out.push(b'h');
        }
        for (index, tag, raw) in &self.list {
            out.extend_from_slice(index.to_string().as_bytes());
            out.push(*tag);
            if *raw {
                out.push(b'!');
            }
        }
        out
    }

    pub(crate) fn parse(mut text: &[u8]) -> Option<Tags> {
        let mut flag = |letter: u8| match text.split_first() {
            Some((first, rest)) if *first == letter => {
                text = rest;
                true
            }
            _ => false,
        };
        let mut tags = Tags { unused_flag: flag(b'u'), empty_table: flag(b'h'), list: Vec::new() };
        while !text.is_empty() {
            let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (number, rest) = text.split_at(length);
            let index = parse_digits(number)?;
            let (tag, rest) = rest.split_first()?;
            let raw = rest.first() == Some(&b'!');
            if tags.list.last().is_some_and(|(last, ..)| *last >= index) {
                return None;
            }
            tags.list.push((index, *tag, raw));
            text = if raw { rest.get(1..)? } else { rest };
        }
        Some(tags)
    }
}
