//! The generated files that are about all APIs: the key enum, the dispatch enums, the test schema.

use std::fmt::Write as _;

use anyhow::Result;

use crate::apis::Api;
use crate::descriptor::{Descriptor, RawField, Versions};
use crate::emit::banner;
use crate::model::{Message, snake_case};

/// `api_key.rs`: the enum and the facts of each API.
pub(crate) fn api_key_file(all: &[(&Api, Message, Message)]) -> Result<String> {
    let mut out = banner("The API keys FerryMQ speaks and the versions of each.");
    out.push_str(
        "use crate::api::{ApiInfo, VersionRange};\n\n\
         /// A Kafka API, by its numeric key.\n\
         #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]\n\
         #[repr(i16)]\npub enum ApiKey {\n",
    );
    for (api, ..) in all {
        writeln!(out, "/// `{}`, key {}.\n{} = {},", api.name, api.key, api.name, api.key)?;
    }
    out.push_str("}\n\nimpl ApiKey {\n/// Every API, in key order.\npub const ALL: &'static [Self] = &[\n");
    for (api, ..) in all {
        writeln!(out, "Self::{},", api.name)?;
    }
    out.push_str(
        "];\n\n/// The API with this key, if it is one of ours.\n\
         pub const fn from_id(id: i16) -> Option<Self> {\nSome(match id {\n",
    );
    for (api, ..) in all {
        writeln!(out, "{} => Self::{},", api.key, api.name)?;
    }
    out.push_str("_ => return None,\n})\n}\n\npub(crate) const fn info(self) -> ApiInfo {\nmatch self {\n");
    for (api, request, response) in all {
        let since =
            |version: i16| if version == i16::MAX { "i16::MAX".to_owned() } else { version.to_string() };
        writeln!(
            out,
            "Self::{name} => ApiInfo {{ name: {name:?}, decodable: VersionRange::new({}, {}), \
             advertised: VersionRange::new({}, {}), request_flexible_since: {}, \
             response_flexible_since: {} }},",
            api.min,
            api.max,
            api.advertised_min,
            api.max,
            since(request.flexible_since),
            since(response.flexible_since),
            name = api.name,
        )?;
    }
    out.push_str("}\n}\n}\n");
    Ok(out)
}

/// `messages.rs`: the modules and the two closed enums.
pub(crate) fn messages_file(all: &[(&Api, Message, Message)]) -> Result<String> {
    let mut out = banner("Every message, one module per API, and the closed enums over them.");
    out.push_str(
        "use crate::api_key::ApiKey;\nuse crate::decode::{DecodeError, Decoder};\n\
         use crate::encode::{EncodeError, Encoder};\nuse crate::message::{Message as _, from_messages};\n\n",
    );
    for (api, ..) in all {
        writeln!(out, "pub mod {};", snake_case(api.name))?;
    }
    out.push('\n');
    for (api, ..) in all {
        writeln!(out, "pub use {}::{{{n}Request, {n}Response}};", snake_case(api.name), n = api.name)?;
    }
    for (kind, what) in [("Request", "request"), ("Response", "response")] {
        writeln!(
            out,
            "\n/// Any {what} of ours.\n#[derive(Debug, Clone, PartialEq)]\n\
             #[allow(clippy::large_enum_variant, reason = \"one lives per request in flight; boxes would cost more\")]\n\
             pub enum {kind}Kind {{"
        )?;
        for (api, ..) in all {
            writeln!(out, "/// [`{n}{kind}`].\n{n}({n}{kind}),", n = api.name)?;
        }
        writeln!(
            out,
            "}}\n\nimpl {kind}Kind {{\n/// Decodes the body of a {what}; the header has been read already.\n\
             pub fn decode(api: ApiKey, d: &mut Decoder<'_>, version: i16) -> Result<Self, DecodeError> {{\n\
             Ok(match api {{"
        )?;
        for (api, ..) in all {
            writeln!(out, "ApiKey::{n} => Self::{n}({n}{kind}::decode(d, version)?),", n = api.name)?;
        }
        writeln!(
            out,
            "}})\n}}\n\n/// Encodes the body.\n\
             pub fn encode(&self, e: &mut Encoder, version: i16) -> Result<(), EncodeError> {{\nmatch self {{"
        )?;
        for (api, ..) in all {
            writeln!(out, "Self::{}(m) => m.encode(e, version),", api.name)?;
        }
        out.push_str(
            "}\n}\n\n/// The API it belongs to.\npub const fn api(&self) -> ApiKey {\nmatch self {\n",
        );
        for (api, ..) in all {
            writeln!(out, "Self::{n}(_) => ApiKey::{n},", n = api.name)?;
        }
        out.push_str("}\n}\n}\n");
        writeln!(out, "\nfrom_messages!({kind}Kind,")?;
        for (api, ..) in all {
            writeln!(out, "{n}({n}{kind}),", n = api.name)?;
        }
        out.push_str(");\n");
    }
    Ok(out)
}

/// The facts of every message as plain text, from which the codec's tests write valid bytes on their own.
///
/// One line per message (`message NAME KEY MIN MAX FLEXIBLE_SINCE`) and one per field, indented by depth:
/// `NAME TYPE VERSIONS NULLABLE TAG DEFAULT`. Ranges are the descriptor's, not cut to ours.
pub(crate) fn schema_file(descriptors: &[(&Api, &Descriptor)]) -> Result<String> {
    let mut out = String::from(
        "# Generated by ferrymq-kafka-codegen; do not edit. The reader is tests/support/schema.rs.\n",
    );
    for (api, d) in descriptors {
        let since = Versions::parse(&d.flexible_versions)?.map_or(i16::MAX, |range| range.lo);
        writeln!(out, "message {} {} {} {} {since}", d.name, api.key, api.min, api.max)?;
        schema_fields(&mut out, d, &d.fields, 1)?;
    }
    Ok(out)
}

fn schema_fields(out: &mut String, d: &Descriptor, fields: &[RawField], depth: usize) -> Result<()> {
    for field in fields {
        let range = |text: &Option<String>| -> Result<String> {
            let range = text.as_deref().map(Versions::parse).transpose()?.flatten();
            Ok(range.map_or("-".to_owned(), |r| format!("{}..{}", r.lo, r.hi)))
        };
        let element = field.kind.trim_start_matches("[]");
        let below = d.common_structs.iter().find(|s| s.name == element).map_or(&field.fields, |s| &s.fields);
        let kind = if below.is_empty() { field.kind.clone() } else { field.kind.replace(element, "struct") };
        let default = match &field.default {
            None => String::new(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        writeln!(
            out,
            "{:depth$}{} {kind} {} {} {} {default:?}",
            "",
            snake_case(&field.name).trim_start_matches("r#"),
            range(&Some(field.versions.clone()))?,
            range(&field.nullable_versions)?,
            field.tag.map_or("-".to_owned(), |tag| tag.to_string()),
        )?;
        schema_fields(out, d, below, depth + 1)?;
    }
    Ok(())
}
