//! What the integration tests share: the schema as text, and a writer of valid bytes that is independent
//! of the codec under test.
#![allow(dead_code, reason = "every test binary uses a part of it")]

pub(crate) mod debug_tree;
pub(crate) mod schema;
pub(crate) mod writer;

use bytes::Bytes;
use ferrymq_kafka_codec::{
    ApiKey, Body as _, DecodeError, Decoder, EncodeError, Encoder, RequestKind, ResponseKind,
};

/// Either direction, so that tests can treat them alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Any {
    Request(RequestKind),
    Response(ResponseKind),
}

impl Any {
    /// Decodes a body and insists that it is all there is.
    pub(crate) fn decode(m: &schema::Message, version: i16, bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let api = api(m);
        let any = if m.is_request {
            Self::Request(RequestKind::decode(api, &mut d, version)?)
        } else {
            Self::Response(ResponseKind::decode(api, &mut d, version)?)
        };
        d.finish()?;
        Ok(any)
    }

    pub(crate) fn encode(&self, version: i16) -> Result<Bytes, EncodeError> {
        let mut e = Encoder::new();
        match self {
            Self::Request(m) => m.encode_body(&mut e, version)?,
            Self::Response(m) => m.encode_body(&mut e, version)?,
        }
        Ok(e.finish().to_bytes())
    }

    /// The message's own `Debug`, without the enum around it.
    pub(crate) fn debug(&self) -> String {
        match self {
            Self::Request(m) => format!("{m:?}"),
            Self::Response(m) => format!("{m:?}"),
        }
    }
}

pub(crate) fn api(m: &schema::Message) -> ApiKey {
    ApiKey::from_id(m.key).expect("the schema lists our APIs only")
}
