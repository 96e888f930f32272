//! The broker's API, asked over one connection for each request.
//!
//! **Invariants.** Names are percent-encoded whole, so that they may hold slashes. Every wait has an end. An error says
//! what was asked for, what the broker said, and what to do about it.
//!
//! Deliberately absent: TLS and users; the API serves this machine only.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use ferrymq_runtime::{TaskKind, Tasks};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpStream;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Who we are: the user that is let in from this machine.
const GUEST: &str = "Basic Z3Vlc3Q6Z3Vlc3Q=";

/// The broker refused.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    /// What was asked for, such as `queue orders in vhost /`.
    what: String,
    reason: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            StatusCode::NOT_FOUND if self.reason == "Not Found" => write!(f, "there is no {}", self.what),
            _ => write!(f, "{}: {}", self.what, self.reason.trim_end()),
        }
    }
}

impl std::error::Error for Refused {}

impl Refused {
    /// What to do about it.
    pub(super) fn advice(&self) -> Option<String> {
        let has = |text| self.reason.contains(text);
        let advice = match self.status {
            StatusCode::NOT_FOUND => match self.what.split(' ').next().unwrap_or_default() {
                "vhost" => "`ferrymq vhost list` shows what there is",
                sort => return Some(format!("`ferrymq {sort} list` shows what there is; is --vhost right?")),
            },
            _ if has("inequivalent arg") => {
                "it is there already and differs: delete it first, or declare it as it is (`--json` lists show how)"
            }
            _ if has("not recognised policy settings") => {
                "docs/adr/0010-policies-and-virtual-hosts.md lists the settings; an operator's may be fewer"
            }
            _ if has("in use") => "leave out --if-unused to delete it all the same",
            _ if has("not empty") => "leave out --if-empty to delete it all the same, or purge it first",
            _ if has("locked queue") => "it is exclusive: only the connection that declared it may use it",
            StatusCode::FORBIDDEN => "say --api with localhost or an address of this machine",
            StatusCode::SERVICE_UNAVAILABLE => "the broker's /readyz and its log say why",
            _ => return None,
        };
        Some(advice.to_owned())
    }
}

/// How to ask.
pub(super) struct Api {
    address: String,
    patience: Duration,
}

impl Api {
    pub(super) fn new(address: &str, patience: Duration) -> Api {
        let address = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        Api { address: address.to_owned(), patience }
    }

    /// Reads what is at a path.
    pub(super) async fn get(&self, what: &str, path: &[&str]) -> anyhow::Result<Json> {
        let (_, body) = self.ask(Method::GET, what, path, "", None).await?;
        serde_json::from_slice(&body).context("the answer is not JSON: is --api the broker's HTTP listener?")
    }

    /// Puts something there; whether it was not there before.
    pub(super) async fn put(&self, what: &str, path: &[&str], body: &Json) -> anyhow::Result<bool> {
        let (status, _) = self.ask(Method::PUT, what, path, "", Some(body)).await?;
        Ok(status == StatusCode::CREATED)
    }

    /// Adds something there.
    pub(super) async fn post(&self, what: &str, path: &[&str], body: &Json) -> anyhow::Result<()> {
        self.ask(Method::POST, what, path, "", Some(body)).await.map(drop)
    }

    /// Deletes what is there.
    pub(super) async fn delete(&self, what: &str, path: &[&str], query: &str) -> anyhow::Result<()> {
        self.ask(Method::DELETE, what, path, query, None).await.map(drop)
    }

    async fn ask(
        &self,
        method: Method,
        what: &str,
        path: &[&str],
        query: &str,
        body: Option<&Json>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let asked = tokio::time::timeout(self.patience, self.exchange(method, path, query, body)).await;
        let (status, body) = asked.map_err(|_| {
            anyhow::anyhow!("no answer from {} in {:?}; --timeout changes that", self.address, self.patience)
        })??;
        if status.is_success() {
            return Ok((status, body));
        }
        let told: Json = serde_json::from_slice(&body).unwrap_or_default();
        let reason = match &told["reason"] {
            Json::String(reason) => reason.clone(),
            _ => format!("{status}; is {} a broker of this version?", self.address),
        };
        Err(Refused { status, what: what.to_owned(), reason }.into())
    }

    async fn exchange(
        &self,
        method: Method,
        path: &[&str],
        query: &str,
        body: Option<&Json>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(&self.address).await.with_context(|| {
            format!(
                "cannot connect to {}: is the broker running with --http-listen there? --api or FERRYMQ_API says where",
                self.address
            )
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let tasks = Tasks::new();
        tasks.spawn(TaskKind::Connection, "http client", async move {
            // What went wrong is told to whoever waits for the answer.
            let _ended = connection.await;
        });
        let mut uri = "/api".to_owned();
        for part in path {
            uri.push('/');
            quote(part, &mut uri);
        }
        if !query.is_empty() {
            uri.push('?');
            uri.push_str(query);
        }
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, &self.address)
            .header(header::AUTHORIZATION, GUEST)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.map(ToString::to_string).unwrap_or_default()))?;
        let answer = sender.send_request(request).await.context("the broker hung up")?;
        let status = answer.status();
        let bytes = to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX).await?;
        Ok((status, bytes))
    }
}

/// Percent-encodes everything but letters, digits and what never means anything.
fn quote(part: &str, out: &mut String) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}
