//! Who is let into the API: programs of this machine that say they are `guest`, and no page in a browser.
//!
//! There are no users yet, so this is the rule of the AMQP door: `guest` with the password `guest`, from here.
//!
//! **Invariants.** A request for another host than this machine's own is refused (a name that was made to point here),
//! one that a page sent (it has an `Origin`) as well, and a change must say that it is JSON, which a page cannot without
//! asking first, and nobody answers that. No parameter of a query is ignored, on whatever route. A body is small, and read within [`REQUEST_PATIENCE`].
//!
//! Deliberately absent: whether the peer is of this machine: who is not finds no API at all.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::super::REQUEST_PATIENCE;
use super::{Api, Problem, check_query};

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// `guest:guest`.
const GUEST: &str = "Basic Z3Vlc3Q6Z3Vlc3Q=";

/// Lets a request in, or not.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (method, uri) = (request.method(), request.uri());
    let served = || check_query(method, uri.path(), uri.query());
    if let Err(problem) = check(method, request.headers()).and_then(|()| served()) {
        let status = problem.status;
        let mut response = problem.into_response();
        if status == StatusCode::UNAUTHORIZED {
            let realm = header::HeaderValue::from_static("Basic realm=\"FerryMQ\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
        }
        return response;
    }
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(REQUEST_PATIENCE, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Body::from(bytes),
        Ok(Err(_)) => return Problem::bad("Exceeded HTTP request body size limit").into_response(),
        Err(_) => {
            return refused(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long").into_response();
        }
    };
    let Ok(_turn) = api.turns.acquire().await else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", "stopping").into_response();
    };
    next.run(Request::from_parts(parts, body)).await
}

fn refused(status: StatusCode, error: &'static str, reason: &str) -> Problem {
    Problem { status, error, reason: reason.to_owned() }
}

fn check(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let forbidden = |reason| Err(refused(StatusCode::FORBIDDEN, "forbidden", reason));
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if !text(header::HOST).is_some_and(is_this_machine) {
        return forbidden("the Host is not this machine: connect to localhost or 127.0.0.1");
    }
    if headers.contains_key(header::ORIGIN) {
        return forbidden("requests of pages in browsers are not served");
    }
    if headers.get("sec-fetch-site").is_some_and(|site| site != "none" && site != "same-origin") {
        return forbidden("requests from other sites are not served");
    }
    if [Method::PUT, Method::POST].contains(method) {
        let kind = text(header::CONTENT_TYPE).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let reason = "a change must say Content-Type: application/json";
            return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", reason));
        }
    }
    match text(header::AUTHORIZATION) {
        Some(GUEST) => Ok(()),
        Some(_) => Err(refused(StatusCode::UNAUTHORIZED, "not_authorized", "Not_Authorized")),
        None => Err(refused(StatusCode::UNAUTHORIZED, "not_authorized", "Login failed")),
    }
}

/// Whether a `Host` names this machine: an address of its own or `localhost`, with or without a port.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &Method, given: &[(&'static str, &'static str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.insert(*name, header::HeaderValue::from_static(value));
        }
        check(method, &headers).map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn pages_and_strangers_are_refused() {
        let (host, guest) = (("host", "localhost:15672"), ("authorization", GUEST));
        let json = ("content-type", "application/json; charset=utf-8");
        for (method, given, expected) in [
            (Method::GET, vec![host, guest], 200),
            (Method::DELETE, vec![host, guest], 200),
            (Method::PUT, vec![host, guest, json], 200),
            (Method::PUT, vec![host, guest], 415),
            (Method::POST, vec![host, guest, ("content-type", "text/plain")], 415),
            (Method::GET, vec![guest], 403),
            (Method::GET, vec![("host", "evil.example:15672"), guest], 403),
            (Method::GET, vec![("host", "127.0.0.1.evil.example"), guest], 403),
            (Method::GET, vec![host, guest, ("origin", "http://localhost:15672")], 403),
            (Method::GET, vec![host, guest, ("origin", "null")], 403),
            (Method::GET, vec![host, guest, ("sec-fetch-site", "cross-site")], 403),
            (Method::GET, vec![host, guest, ("sec-fetch-site", "same-site")], 403),
            (Method::GET, vec![host, guest, ("sec-fetch-site", "none")], 200),
            (Method::GET, vec![host], 401),
            (Method::GET, vec![host, ("authorization", "Basic cm9vdDpyb290")], 401),
        ] {
            assert_eq!(status(&method, &given), expected, "{method} {given:?}");
        }
        for host in ["127.0.0.1", "127.0.0.1:15672", "[::1]:15672", "[::1]", "LOCALHOST", "127.1.2.3:1"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["", "10.0.0.1:15672", "localhost.evil.example", "0.0.0.0", "[::]:1", "::ffff:10.0.0.1"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
