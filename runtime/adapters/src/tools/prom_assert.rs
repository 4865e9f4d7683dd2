//! `prom.assert {url, expr, hold}`: a PromQL expression must be true, now and all through `hold`, asked once a second and at the end.
//!
//! True means what it means for a Prometheus alert: a vector is true if it has a series, whatever its value (so write `errors == 0`
//! and not `errors == bool 0`); a scalar is true unless it is 0 or NaN. The first answer that is not true ends it.
//! Outputs: `value` (the last one seen), `series`, `samples`, `ms`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use super::arguments::Kind;
use super::http::{client, innermost, parse_url};
use super::{Arguments, Context, Parameter, Tool, ToolError};

const EVERY: Duration = Duration::from_secs(1);
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const SHOWN_CHARS_MAX: usize = 200;

pub(super) struct PromAssert;

impl Tool for PromAssert {
    fn name(&self) -> &'static str {
        "prom.assert"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "url", kind: Kind::Text, is_required: true },
            Parameter { name: "expr", kind: Kind::Text, is_required: true },
            Parameter { name: "hold", kind: Kind::Duration { ms_max: 24 * 3600 * 1000 }, is_required: false },
        ]
    }

    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        if arguments.text("expr").is_some_and(|expr| expr.trim().is_empty()) {
            return Err("the argument `expr` is empty".to_owned());
        }
        arguments.text("url").map_or(Ok(()), |url| query_url(url, "").map(drop))
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let expr = arguments.text("expr").unwrap_or_default();
            let url = query_url(arguments.text("url").unwrap_or_default(), expr).map_err(ToolError::failed)?;
            let client = client().map_err(ToolError::failed)?;
            let hold = Duration::from_millis(arguments.number("hold").unwrap_or(0));
            let began = Instant::now();
            for samples in 1u64.. {
                context.is_active();
                let asked_at = began.elapsed();
                let seen = ask(&client, &url).await.map_err(|error| ToolError::failed(format!("`{expr}` has no answer: {error}")))?;
                if !seen.is_true {
                    let after = asked_at.as_millis();
                    return Err(ToolError::failed(format!(
                        "`{expr}` is not true after {after} ms ({samples} samples): it is {}",
                        seen.value
                    )));
                }
                if asked_at >= hold {
                    let numbers = [("series", seen.series as u64), ("samples", samples), ("ms", began.elapsed().as_millis() as u64)];
                    let mut outputs = BTreeMap::from(numbers.map(|(name, number)| (name.to_owned(), number.to_string())));
                    outputs.insert("value".to_owned(), seen.value);
                    return Ok(outputs);
                }
                let next = (asked_at + EVERY).min(hold);
                tokio::time::sleep(next.saturating_sub(began.elapsed())).await;
            }
            Err(ToolError::failed("the samples ran out"))
        }
        .boxed()
    }
}

fn query_url(base: &str, expr: &str) -> Result<reqwest::Url, String> {
    let mut url = parse_url(base)?;
    url.path_segments_mut().map_err(|()| format!("`{base}` is no base of URLs"))?.pop_if_empty().extend(["api", "v1", "query"]);
    url.query_pairs_mut().append_pair("query", expr);
    Ok(url)
}

/// One answer.
#[derive(Debug)]
struct Seen {
    is_true: bool,
    series: usize,
    /// For people, and bounded.
    value: String,
}

async fn ask(client: &reqwest::Client, url: &reqwest::Url) -> Result<Seen, String> {
    let mut answer = client.get(url.clone()).timeout(QUERY_TIMEOUT).send().await.map_err(|error| innermost(&error))?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| innermost(&error))? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(format!("it is larger than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    let json: Value = serde_json::from_slice(&body).map_err(|_| format!("the server answered {} without JSON", status.as_u16()))?;
    if !status.is_success() || json["status"] != "success" {
        let said = json["error"].as_str().unwrap_or("no reason given");
        return Err(format!("the server answered {}: {}", status.as_u16(), shorten(said)));
    }
    read_result(&json["data"])
}

fn read_result(answer: &Value) -> Result<Seen, String> {
    let result = &answer["result"];
    match answer["resultType"].as_str() {
        Some("vector") => {
            let series = result.as_array().ok_or("a vector without series")?;
            let value = match series.first() {
                None => "empty".to_owned(),
                Some(first) => first["value"][1].as_str().ok_or("a vector with a series without a value")?.to_owned(),
            };
            Ok(Seen { is_true: !series.is_empty(), series: series.len(), value: shorten(&value) })
        }
        Some("scalar") => {
            let text = result[1].as_str().ok_or("a scalar without a value")?;
            let number: f64 = text.parse().map_err(|_| "a scalar that is no number")?;
            Ok(Seen { is_true: number != 0.0 && !number.is_nan(), series: 1, value: shorten(text) })
        }
        Some(other) => Err(format!("it is a {}, and only a vector or a scalar can be true", shorten(other))),
        None => Err("it has no type".to_owned()),
    }
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect()
}
