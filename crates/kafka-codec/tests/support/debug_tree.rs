//! Compares two `Debug` texts of one message made by two codecs.
//!
//! Struct and newtype names are dropped, `Some(x)` is `x`; field names and values stay. That shows that
//! both codecs put every value into the field of the same name, which equal bytes alone would not.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// A parsed `Debug` text.
#[derive(Debug, PartialEq)]
pub(crate) enum Tree {
    Struct(BTreeMap<String, Tree>),
    List(Vec<Tree>),
    Scalar(String),
}

/// Parses `Debug` text, without the fields in `skip`.
pub(crate) fn parse(text: &str, skip: &[&str]) -> Tree {
    let mut chars = text.chars().peekable();
    let tree = value(&mut chars, skip);
    assert_eq!(chars.next(), None, "rest of {text}");
    tree
}

fn space(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|c| matches!(c, ' ' | ',')).is_some() {}
}

fn value(chars: &mut Peekable<Chars<'_>>, skip: &[&str]) -> Tree {
    space(chars);
    let mut word = String::new();
    while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || "_-.".contains(*c)) {
        word.push(c);
    }
    match chars.clone().next() {
        Some('"') => Tree::Scalar(word + &quoted(chars)),
        Some('(') => {
            chars.next();
            let inner = value(chars, skip);
            space(chars);
            assert_eq!(chars.next(), Some(')'));
            inner
        }
        Some('[') => {
            chars.next();
            let mut list = Vec::new();
            while chars.next_if_eq(&']').is_none() {
                list.push(value(chars, skip));
                space(chars);
            }
            Tree::List(list)
        }
        Some(' ') if chars.clone().nth(1) == Some('{') => {
            chars.next();
            fields(chars, skip)
        }
        Some('{') => fields(chars, skip),
        _ => Tree::Scalar(word),
    }
}

fn fields(chars: &mut Peekable<Chars<'_>>, skip: &[&str]) -> Tree {
    chars.next();
    space(chars);
    let mut fields = BTreeMap::new();
    while chars.next_if_eq(&'}').is_none() {
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| *c != ':') {
            name.push(c);
        }
        chars.next();
        let value = value(chars, skip);
        let name = name.trim_matches('_').to_owned();
        if !skip.contains(&name.as_str()) {
            fields.insert(name, value);
        }
        space(chars);
    }
    Tree::Struct(fields)
}

fn quoted(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut text = String::from(chars.next().expect("a quote"));
    while let Some(c) = chars.next() {
        text.push(c);
        match c {
            '\\' => text.extend(chars.next()),
            '"' => break,
            _ => {}
        }
    }
    text
}
