//! Request and response headers.
//!
//! A request header says which version it has only through the API key and version it begins with. Its
//! client id has a 16-bit length in every version; only the tagged fields at the end make version 2
//! flexible.
//!
//! Deliberately absent: request header version 0, whose only user left Kafka before any client we serve;
//! it can still be read and written by asking for it.

use crate::api::{request_header_version, response_header_version};
use crate::api_key::ApiKey;
use crate::decode::{DecodeError, Decoder};
use crate::encode::{EncodeError, Encoder};
use crate::str_bytes::StrBytes;

/// What stands in front of every request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestHeader {
    /// The API key as it was sent; [`RequestHeader::api`] is the API.
    pub api_key: i16,
    /// The version of the request body.
    pub api_version: i16,
    /// What the response must repeat.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<StrBytes>,
}

impl RequestHeader {
    /// Reads a header; the API must be one of ours, its version need not be supported.
    pub fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (key, version) = (d.i16()?, d.i16()?);
        let api = ApiKey::from_id(key).ok_or(DecodeError::UnknownApi { key })?;
        Self::decode_rest(d, key, version, request_header_version(api, version))
    }

    /// Reads a header of a known header version, whatever the API.
    pub fn decode_as(d: &mut Decoder<'_>, header_version: i16) -> Result<Self, DecodeError> {
        let (key, version) = (d.i16()?, d.i16()?);
        Self::decode_rest(d, key, version, header_version)
    }

    fn decode_rest(
        d: &mut Decoder<'_>,
        api_key: i16,
        api_version: i16,
        header_version: i16,
    ) -> Result<Self, DecodeError> {
        let correlation_id = d.i32()?;
        let client_id = if header_version >= 1 { d.header_string()? } else { None };
        d.set_flexible(header_version >= 2);
        d.skip_tags()?;
        Ok(Self { api_key, api_version, correlation_id, client_id })
    }

    /// The API, if it is one of ours; after [`decode`](Self::decode) it is.
    pub fn api(&self) -> Option<ApiKey> {
        ApiKey::from_id(self.api_key)
    }

    /// Writes the header in a header version.
    pub fn encode(&self, e: &mut Encoder, header_version: i16) -> Result<(), EncodeError> {
        e.i16(self.api_key);
        e.i16(self.api_version);
        e.i32(self.correlation_id);
        if header_version >= 1 {
            e.header_string(self.client_id.as_ref())?;
        }
        e.set_flexible(header_version >= 2);
        e.no_tags();
        Ok(())
    }
}

/// What stands in front of every response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseHeader {
    /// The request's.
    pub correlation_id: i32,
}

impl ResponseHeader {
    /// Reads the header of a response to a request of this API and version.
    pub fn decode(d: &mut Decoder<'_>, api: ApiKey, version: i16) -> Result<Self, DecodeError> {
        let correlation_id = d.i32()?;
        d.set_flexible(response_header_version(api, version) >= 1);
        d.skip_tags()?;
        Ok(Self { correlation_id })
    }

    /// Writes the header in a header version.
    pub fn encode(&self, e: &mut Encoder, header_version: i16) {
        e.i32(self.correlation_id);
        e.set_flexible(header_version >= 1);
        e.no_tags();
    }
}
