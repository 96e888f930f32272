//! Reads `schema.txt`, the generated list of every message and field.

use std::ops::RangeInclusive;

/// A request or response.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) is_request: bool,
    pub(crate) key: i16,
    pub(crate) versions: RangeInclusive<i16>,
    pub(crate) flexible_since: i16,
    pub(crate) fields: Vec<Field>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// The element's type for an array.
    pub(crate) kind: String,
    pub(crate) is_array: bool,
    pub(crate) versions: RangeInclusive<i16>,
    nullable: Option<RangeInclusive<i16>>,
    pub(crate) tag: Option<u32>,
    pub(crate) default: String,
    pub(crate) fields: Vec<Field>,
}

impl Field {
    pub(crate) fn is_nullable(&self, version: i16) -> bool {
        self.nullable.as_ref().is_some_and(|range| range.contains(&version))
    }
}

/// Every message.
pub(crate) fn all() -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    for line in include_str!("schema.txt").lines().filter(|line| !line.starts_with('#')) {
        let depth = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().collect();
        if depth == 0 {
            messages.push(Message {
                name: words[1].to_owned(),
                is_request: words[1].ends_with("Request"),
                key: words[2].parse().unwrap(),
                versions: words[3].parse().unwrap()..=words[4].parse().unwrap(),
                flexible_since: words[5].parse().unwrap(),
                fields: Vec::new(),
            });
            continue;
        }
        let mut fields = &mut messages.last_mut().expect("a message comes first").fields;
        for _ in 1..depth {
            fields = &mut fields.last_mut().expect("a parent comes first").fields;
        }
        fields.push(Field {
            name: words[0].to_owned(),
            kind: words[1].trim_start_matches("[]").to_owned(),
            is_array: words[1].starts_with("[]"),
            versions: range(words[2]).expect("every field has versions"),
            nullable: range(words[3]),
            tag: words[4].parse().ok(),
            default: words[5].trim_matches('"').to_owned(),
            fields: Vec::new(),
        });
    }
    messages
}

fn range(text: &str) -> Option<RangeInclusive<i16>> {
    let (lo, hi) = text.split_once("..")?;
    Some(lo.parse().unwrap()..=hi.parse().unwrap())
}
