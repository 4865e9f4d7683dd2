//! `http.post {url, body, headers, check, status, timeout}`: a request that changes something outside, once per idempotency key.
//!
//! The intent is in the effect ledger before it is sent. It carries `Idempotency-Key` (the same over the attempts of a run) and
//! `Amphi-Fencing-Token` (grows with every attempt), so that a server can refuse what is late. `body` is a text, or JSON. An answer of 2xx (or
//! `status`) is success, one of 4xx says that nothing happened; after one of 5xx, or none, nobody knows. Nor after 408 and 409: the
//! server gave up waiting, or is at work on the same key (draft-ietf-httpapi-idempotency-key-header, section 2.6).
//!
//! With `check`, a URL in which `{key}` stands for the key, the server can be asked: a GET that answers 2xx says that it happened, 404 or 410
//! that it did not; everything else is asked again for a while. It must not say 404 of a request that it is still working on. Without
//! `check` an outcome that is not known becomes an incident, and the request is never sent again on a guess.
//!
//! Outputs: `status` and `body` (at most 16 KiB) of the answer, of the check's answer if that said it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use amphi_protocol::journal::EffectIntent;
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::arguments::Kind;
use super::http::{client, innermost, parse_url};
use super::ledger::{Acted, Asked, Outputs};
use super::{Arguments, Context, Parameter, Tool, ToolError};

const TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// How long a check is repeated that says neither.
const ASK_FOR: Duration = Duration::from_secs(15);
const ASK_AGAIN: Duration = Duration::from_millis(500);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 16 * 1024;
const KEY_HEADER: &str = "idempotency-key";
const TOKEN_HEADER: &str = "amphi-fencing-token";

pub(super) struct HttpPost;

impl Tool for HttpPost {
    fn name(&self) -> &'static str {
        "http.post"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "url", kind: Kind::Text, is_required: true },
            Parameter { name: "body", kind: Kind::Anything, is_required: false },
            Parameter { name: "headers", kind: Kind::Anything, is_required: false },
            Parameter { name: "check", kind: Kind::Text, is_required: false },
            Parameter { name: "status", kind: Kind::Count { min: 100, max: 599 }, is_required: false },
            Parameter { name: "timeout", kind: Kind::Duration { ms_max: 600_000 }, is_required: false },
        ]
    }

    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        headers(arguments).map(drop)?;
        arguments.text("url").map_or(Ok(()), |url| parse_url(url).map(drop))?;
        arguments.text("check").map_or(Ok(()), |url| parse_url(&url.replace("{key}", "key")).map(drop))
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<Outputs, ToolError>> {
        async move {
            let ledger = context.ledger.as_ref().ok_or_else(|| ToolError::failed("effects cannot be brought about here"))?;
            let url = parse_url(arguments.text("url").unwrap_or_default()).map_err(ToolError::failed)?;
            let client = client().map_err(ToolError::failed)?;
            let mut headers = headers(&arguments).map_err(ToolError::failed)?;
            let text = |text: &str| HeaderValue::from_str(text).map_err(|_| ToolError::failed("the key is no header value"));
            headers.insert(HeaderName::from_static(KEY_HEADER), text(&ledger.key)?);
            headers.insert(HeaderName::from_static(TOKEN_HEADER), text(&ledger.token.to_string())?);
            let (body, is_json) = match arguments.value("body") {
                None | Some(Value::Null) => (String::new(), false),
                Some(Value::String(text)) => (text.clone(), false),
                Some(other) => (other.to_string(), true),
            };
            if is_json && !headers.contains_key(CONTENT_TYPE) {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            let expected = arguments.number("status");
            let timeout = Duration::from_millis(arguments.number("timeout").unwrap_or(TIMEOUT_MS_DEFAULT));
            let check = arguments.text("check").map(|check| parse_url(&check.replace("{key}", &escaped(&ledger.key))));
            let check = check.transpose().map_err(ToolError::failed)?;
            let intent = EffectIntent {
                effect: "http.post".to_owned(),
                tool: "http.post".to_owned(),
                askable: check.is_some(),
                about: format!("POST {url}"),
            };
            let ask = || async {
                match &check {
                    Some(check) => asked(context, &client, check, &ledger.key).await,
                    None => Asked::Nobody("it has no `check`, so nobody can be asked".to_owned()),
                }
            };
            let act = || async {
                context.is_active();
                match client.post(url.clone()).headers(headers).timeout(timeout).body(body).send().await {
                    Ok(answer) => judged(&url, expected, answer).await,
                    Err(error) if error.is_connect() || error.is_builder() => {
                        Acted::NotDone(ToolError::failed(format!("{url} cannot be reached: {}", innermost(&error))))
                    }
                    Err(error) => Acted::Unheard(format!("{url} did not answer: {}", innermost(&error))),
                }
            };
            ledger.once(intent, ask, act).await
        }
        .boxed()
    }
}

async fn judged(url: &reqwest::Url, expected: Option<u64>, answer: reqwest::Response) -> Acted {
    let status = answer.status();
    let good = expected.map_or(status.is_success(), |expected| u64::from(status.as_u16()) == expected);
    if good {
        return Acted::Done(outputs(answer).await);
    }
    let text = format!("{url} answered {}", status.as_u16());
    let is_refusal = status.is_client_error() && !matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT);
    if is_refusal { Acted::NotDone(ToolError::failed(text)) } else { Acted::Unheard(text) }
}

async fn asked(context: &Context, client: &reqwest::Client, check: &reqwest::Url, key: &str) -> Asked {
    let began = Instant::now();
    loop {
        context.is_active();
        let said = match client.get(check.clone()).header(KEY_HEADER, key).timeout(ASK_TIMEOUT).send().await {
            Ok(answer) if answer.status().is_success() => return Asked::There(outputs(answer).await),
            Ok(answer) if matches!(answer.status().as_u16(), 404 | 410) => {
                return Asked::NotThere(format!("{check} says that it did not happen"));
            }
            Ok(answer) => format!("{check} answered {}", answer.status().as_u16()),
            Err(error) => format!("{check} did not answer: {}", innermost(&error)),
        };
        if began.elapsed() >= ASK_FOR {
            return Asked::Nobody(said);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// The beginning of a body that cannot be read is as good as none: what it answers to has happened.
async fn outputs(mut answer: reqwest::Response) -> Outputs {
    let status = answer.status().as_u16().to_string();
    let mut body = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        body.extend_from_slice(&piece[..piece.len().min(BODY_BYTES_MAX - body.len())]);
        if body.len() == BODY_BYTES_MAX {
            break;
        }
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    BTreeMap::from([("status".to_owned(), status), ("body".to_owned(), body)])
}

fn headers(arguments: &Arguments) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let given = match arguments.value("headers") {
        None | Some(Value::Null) => return Ok(headers),
        Some(Value::Object(given)) => given,
        Some(_) => return Err("the argument `headers` must be a map of texts".to_owned()),
    };
    for (name, value) in given {
        let wrong = |what: &str| format!("the header `{}` {what}", name.chars().take(64).collect::<String>());
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("is no header"))?;
        if matches!(header.as_str(), KEY_HEADER | TOKEN_HEADER) {
            return Err(wrong("is set by the tool itself"));
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return Err(wrong("has no plain value")),
        };
        headers.insert(header, HeaderValue::from_str(&text).map_err(|_| wrong("holds what no header may"))?);
    }
    Ok(headers)
}

/// A text as a part of a URL.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to a text does not fail"),
        }
    }
    out
}
