//! Reads Kafka's message descriptors: JSON with `//` comments.
//!
//! Only the properties that reach the wire are read; `about`, `entityType` and `mapKey` are not.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// A whole descriptor: one request or one response.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) api_key: Option<i16>,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) valid_versions: String,
    /// Missing where no version is valid any more.
    #[serde(default = "none")]
    pub(crate) flexible_versions: String,
    #[serde(default)]
    pub(crate) common_structs: Vec<CommonStruct>,
    #[serde(default)]
    pub(crate) fields: Vec<RawField>,
}

fn none() -> String {
    "none".to_owned()
}

/// A boolean, which some descriptors write as a string.
fn flag<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    Ok(match serde_json::Value::deserialize(d)? {
        serde_json::Value::Bool(flag) => flag,
        other => other == "true",
    })
}

/// A struct that several fields of one descriptor refer to by name.
#[derive(Debug, Deserialize)]
pub(crate) struct CommonStruct {
    pub(crate) name: String,
    pub(crate) fields: Vec<RawField>,
}

/// One field as the descriptor writes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawField {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) versions: String,
    pub(crate) nullable_versions: Option<String>,
    pub(crate) tagged_versions: Option<String>,
    pub(crate) tag: Option<u32>,
    pub(crate) default: Option<serde_json::Value>,
    #[serde(default, deserialize_with = "flag")]
    pub(crate) ignorable: bool,
    #[serde(default)]
    pub(crate) fields: Vec<RawField>,
    pub(crate) flexible_versions: Option<String>,
}

/// An inclusive range of versions; `None` stands for "no version".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) lo: i16,
    pub(crate) hi: i16,
}

impl Versions {
    /// Parses `3`, `3+`, `0-5` or `none`.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>> {
        if text == "none" {
            return Ok(None);
        }
        let number = |s: &str| s.parse::<i16>().with_context(|| format!("version range {text:?}"));
        let range = if let Some(lo) = text.strip_suffix('+') {
            Self { lo: number(lo)?, hi: i16::MAX }
        } else if let Some((lo, hi)) = text.split_once('-') {
            Self { lo: number(lo)?, hi: number(hi)? }
        } else {
            Self { lo: number(text)?, hi: number(text)? }
        };
        if range.lo > range.hi {
            bail!("empty version range {text:?}");
        }
        Ok(Some(range))
    }

    pub(crate) fn intersect(self, other: Self) -> Option<Self> {
        let both = Self { lo: self.lo.max(other.lo), hi: self.hi.min(other.hi) };
        (both.lo <= both.hi).then_some(both)
    }

    /// The smallest range that holds both.
    pub(crate) fn hull(self, other: Self) -> Self {
        Self { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }

    pub(crate) fn contains(self, version: i16) -> bool {
        self.lo <= version && version <= self.hi
    }

    pub(crate) fn covers(self, other: Self) -> bool {
        self.lo <= other.lo && other.hi <= self.hi
    }
}

/// Descriptors by (API key, is it the request).
pub(crate) fn parse_all(files: &[(String, String)]) -> Result<HashMap<(i16, bool), Descriptor>> {
    let mut all = HashMap::new();
    for (name, text) in files {
        if !(name.ends_with("Request.json") || name.ends_with("Response.json")) {
            continue;
        }
        let descriptor: Descriptor =
            serde_json::from_str(&strip_comments(text)).with_context(|| format!("descriptor {name}"))?;
        let is_request = match descriptor.kind.as_str() {
            "request" => true,
            "response" => false,
            other => bail!("{name}: unexpected type {other:?}"),
        };
        let key = descriptor.api_key.with_context(|| format!("{name}: no apiKey"))?;
        if all.insert((key, is_request), descriptor).is_some() {
            bail!("{name}: a second descriptor for API key {key}");
        }
    }
    Ok(all)
}

/// Removes `//` comments that are not inside a string.
fn strip_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut in_string = false;
        let mut previous = '\0';
        let mut end = line.len();
        for (at, c) in line.char_indices() {
            match c {
                '"' if previous != '\\' => in_string = !in_string,
                '/' if previous == '/' && !in_string => {
                    end = at - 1;
                    break;
                }
                _ => {}
            }
            previous = c;
        }
        out.push_str(&line[..end]);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_strings_stay() {
        assert_eq!(strip_comments("{ \"a\": \"x//y\" } // gone"), "{ \"a\": \"x//y\" } \n");
    }

    #[test]
    fn version_ranges() {
        let range = |t| Versions::parse(t).unwrap();
        assert_eq!(range("none"), None);
        assert_eq!(range("3"), Some(Versions { lo: 3, hi: 3 }));
        assert_eq!(range("3+"), Some(Versions { lo: 3, hi: i16::MAX }));
        assert_eq!(range("0-5"), Some(Versions { lo: 0, hi: 5 }));
        assert!(Versions::parse("5-3").is_err());
    }
}
