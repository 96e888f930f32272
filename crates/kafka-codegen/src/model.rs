//! What the emitter works on: descriptors resolved against our version table.
//!
//! A field that no version of ours carries is gone; every version range is cut to the versions in which
//! its struct can appear; a struct name used by both the request and the response of an API is made
//! unique, because both live in one file.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, bail};

use crate::descriptor::{Descriptor, RawField, Versions};

/// A request or response with every struct below it.
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) versions: Versions,
    /// First version with compact lengths and tagged fields; `i16::MAX` when there is none.
    pub(crate) flexible_since: i16,
    /// The message itself first, then its structs, outermost first.
    pub(crate) structs: Vec<Struct>,
}

pub(crate) struct Struct {
    pub(crate) name: String,
    /// Versions in which this struct can appear.
    pub(crate) versions: Versions,
    pub(crate) fields: Vec<Field>,
    /// Least number of bytes a value takes in any of its versions.
    pub(crate) min_size: usize,
}

#[derive(Clone)]
pub(crate) struct Field {
    /// Kafka's name.
    pub(crate) kafka_name: String,
    /// Ours: snake case, keywords escaped.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) versions: Versions,
    pub(crate) nullable: Option<Versions>,
    pub(crate) tag: Option<(u32, Versions)>,
    pub(crate) default: Option<String>,
    pub(crate) ignorable: bool,
}

#[derive(Clone, PartialEq)]
pub(crate) enum Kind {
    Bool,
    /// `i8`, `i16`, `u16`, `i32`, `i64`.
    Int(&'static str),
    F64,
    Uuid,
    String,
    Bytes,
    Records,
    Struct(String),
    Array(Box<Kind>),
}

/// Resolves the request and the response of one API together.
pub(crate) fn resolve(
    request: &Descriptor,
    response: &Descriptor,
    versions: Versions,
) -> Result<(Message, Message)> {
    let (in_request, in_response) = (struct_names(request), struct_names(response));
    let rename = |prefix: &str, mine: &[String], other: &[String]| -> HashMap<String, String> {
        mine.iter()
            .map(|name| {
                let unique = if other.contains(name) { format!("{prefix}{name}") } else { name.clone() };
                (name.clone(), unique)
            })
            .collect()
    };
    let for_request = rename("Request", &in_request, &in_response);
    let for_response = rename("Response", &in_response, &in_request);
    Ok((message(request, versions, for_request)?, message(response, versions, for_response)?))
}

fn struct_names(descriptor: &Descriptor) -> Vec<String> {
    fn walk(fields: &[RawField], names: &mut Vec<String>) {
        for field in fields {
            if !field.fields.is_empty() {
                names.push(field.kind.trim_start_matches("[]").to_owned());
                walk(&field.fields, names);
            }
        }
    }
    let mut names = Vec::new();
    walk(&descriptor.fields, &mut names);
    for common in &descriptor.common_structs {
        names.push(common.name.clone());
        walk(&common.fields, &mut names);
    }
    names
}

struct Resolver<'a> {
    commons: BTreeMap<&'a str, &'a [RawField]>,
    rename: HashMap<String, String>,
    structs: Vec<Struct>,
}

fn message(descriptor: &Descriptor, versions: Versions, rename: HashMap<String, String>) -> Result<Message> {
    let valid = Versions::parse(&descriptor.valid_versions)?.context("no valid version")?;
    if !valid.covers(versions) {
        bail!(
            "{}: our versions are not all in the descriptor's {}",
            descriptor.name,
            descriptor.valid_versions
        );
    }
    let flexible_since = Versions::parse(&descriptor.flexible_versions)?.map_or(i16::MAX, |range| range.lo);
    let commons = descriptor.common_structs.iter().map(|s| (s.name.as_str(), s.fields.as_slice())).collect();
    let mut resolver = Resolver { commons, rename, structs: Vec::new() };
    resolver
        .visit(&descriptor.name, &descriptor.fields, versions)
        .with_context(|| descriptor.name.clone())?;
    let mut message =
        Message { name: descriptor.name.clone(), versions, flexible_since, structs: resolver.structs };
    for at in 0..message.structs.len() {
        let size = message.min_size(&message.structs[at])?;
        message.structs[at].min_size = size;
    }
    Ok(message)
}

impl Resolver<'_> {
    /// Adds a struct and everything below it, or widens the versions of one already there.
    fn visit(&mut self, name: &str, fields: &[RawField], reach: Versions) -> Result<()> {
        let at = match self.structs.iter().position(|s| s.name == name) {
            Some(at) => {
                self.structs[at].versions = self.structs[at].versions.hull(reach);
                at
            }
            None => {
                self.structs.push(Struct {
                    name: name.to_owned(),
                    versions: reach,
                    fields: Vec::new(),
                    min_size: 0,
                });
                self.structs.len() - 1
            }
        };
        let reach = self.structs[at].versions;
        let mut resolved = Vec::new();
        for raw in fields {
            let Some(versions) = Versions::parse(&raw.versions)?.and_then(|v| v.intersect(reach)) else {
                continue;
            };
            let field = self.field(raw, versions).with_context(|| format!("field {}", raw.name))?;
            if let Some(below) = field.kind.struct_name() {
                let below = below.to_owned();
                let written = raw.kind.trim_start_matches("[]");
                let fields = if raw.fields.is_empty() {
                    *self.commons.get(written).with_context(|| format!("unknown type {written}"))?
                } else {
                    &raw.fields
                };
                self.visit(&below, fields, versions)?;
            }
            resolved.push(field);
        }
        self.structs[at].fields = resolved;
        Ok(())
    }

    fn field(&self, raw: &RawField, versions: Versions) -> Result<Field> {
        if raw.flexible_versions.is_some() {
            bail!("flexibleVersions of a single field is not supported");
        }
        let cut = |text: &Option<String>| -> Result<Option<Versions>> {
            let range = text.as_deref().map(Versions::parse).transpose()?.flatten();
            Ok(range.and_then(|range| range.intersect(versions)))
        };
        let tag = match (raw.tag, cut(&raw.tagged_versions)?) {
            (Some(tag), Some(range)) if range.covers(versions) => Some((tag, range)),
            (None, None) => None,
            other => bail!("tagged in some versions only: {other:?}"),
        };
        if tag.is_some_and(|(tag, _)| tag >= 127) {
            bail!("the encoder counts tagged fields in one byte");
        }
        let (kind, nullable) = (self.kind(&raw.kind)?, cut(&raw.nullable_versions)?);
        if kind == Kind::Records && nullable.is_none() {
            bail!("records that are never null are not supported");
        }
        Ok(Field {
            kafka_name: raw.name.clone(),
            name: snake_case(&raw.name),
            kind,
            versions,
            nullable,
            tag,
            default: raw.default.as_ref().map(|value| match value {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            }),
            ignorable: raw.ignorable,
        })
    }

    fn kind(&self, written: &str) -> Result<Kind> {
        Ok(match written {
            "bool" => Kind::Bool,
            "int8" => Kind::Int("i8"),
            "int16" => Kind::Int("i16"),
            "uint16" => Kind::Int("u16"),
            "int32" => Kind::Int("i32"),
            "int64" => Kind::Int("i64"),
            "float64" => Kind::F64,
            "uuid" => Kind::Uuid,
            "string" => Kind::String,
            "bytes" => Kind::Bytes,
            "records" => Kind::Records,
            other => match other.strip_prefix("[]") {
                Some(element) => Kind::Array(Box::new(self.kind(element)?)),
                None => {
                    Kind::Struct(self.rename.get(other).with_context(|| format!("type {other}"))?.clone())
                }
            },
        })
    }
}

impl Message {
    fn min_size(&self, s: &Struct) -> Result<usize> {
        let sizes = (s.versions.lo..=s.versions.hi).map(|version| self.struct_size(s, version));
        let least = sizes.collect::<Result<Vec<_>>>()?.into_iter().min().context("no version")?;
        Ok(least)
    }

    fn struct_size(&self, s: &Struct, version: i16) -> Result<usize> {
        let flexible = version >= self.flexible_since;
        let mut size = usize::from(flexible);
        for field in s.fields.iter().filter(|f| f.versions.contains(version) && f.tag.is_none()) {
            size += match &field.kind {
                Kind::Bool | Kind::Int("i8") => 1,
                Kind::Int("i16" | "u16") => 2,
                Kind::Int("i32") => 4,
                Kind::Int(_) | Kind::F64 => 8,
                Kind::Uuid => 16,
                Kind::String if !flexible => 2,
                Kind::Bytes | Kind::Records | Kind::Array(_) if !flexible => 4,
                Kind::String | Kind::Bytes | Kind::Records | Kind::Array(_) => 1,
                Kind::Struct(_) if field.nullable.is_some() => 1,
                Kind::Struct(name) => {
                    let below = self.structs.iter().find(|s| s.name == *name).context("unknown struct")?;
                    self.struct_size(below, version)?
                }
            };
        }
        Ok(size)
    }
}

impl Kind {
    /// The struct this type is or is an array of.
    pub(crate) fn struct_name(&self) -> Option<&str> {
        match self {
            Self::Struct(name) => Some(name),
            Self::Array(element) => element.struct_name(),
            _ => None,
        }
    }
}

/// `LogAppendTimeMs` to `log_append_time_ms`; Rust's keywords become raw identifiers.
pub(crate) fn snake_case(name: &str) -> String {
    let mut out = String::new();
    let mut previous_upper = true;
    for c in name.chars() {
        if c.is_ascii_uppercase() && !previous_upper {
            out.push('_');
        }
        previous_upper = c.is_ascii_uppercase();
        out.push(c.to_ascii_lowercase());
    }
    match out.as_str() {
        "match" | "type" | "ref" | "in" | "as" | "use" => format!("r#{out}"),
        _ => out,
    }
}
