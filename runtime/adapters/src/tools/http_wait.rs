//! `http.wait {url, status, timeout, every}`: asks a URL until it answers with a status (200), for at most `timeout` (1m), with a pause
//! of `every` (1s) in between. Redirects are answers. Outputs: `status`, `tries`, `ms` from the beginning.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::arguments::Kind;
use super::http::{client, innermost, parse_url};
use super::{Arguments, Context, Parameter, Tool, ToolError};

const TIMEOUT_MS_DEFAULT: u64 = 60_000;
const EVERY_MS_DEFAULT: u64 = 1_000;
/// One try ends after this, so that a server that swallowed a request is asked again.
const TRY_MAX: Duration = Duration::from_secs(10);
const DAY_MS: u64 = 24 * 3600 * 1000;

pub(super) struct HttpWait;

impl Tool for HttpWait {
    fn name(&self) -> &'static str {
        "http.wait"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "url", kind: Kind::Text, is_required: true },
            Parameter { name: "status", kind: Kind::Count { min: 100, max: 599 }, is_required: false },
            Parameter { name: "timeout", kind: Kind::Duration { ms_max: DAY_MS }, is_required: false },
            Parameter { name: "every", kind: Kind::Duration { ms_max: 3_600_000 }, is_required: false },
        ]
    }

    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        arguments.text("url").map_or(Ok(()), |url| parse_url(url).map(drop))
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let url = parse_url(arguments.text("url").unwrap_or_default()).map_err(ToolError::failed)?;
            let client = client().map_err(ToolError::failed)?;
            let expected = arguments.number("status").unwrap_or(200);
            let timeout = Duration::from_millis(arguments.number("timeout").unwrap_or(TIMEOUT_MS_DEFAULT));
            let every = Duration::from_millis(arguments.number("every").unwrap_or(EVERY_MS_DEFAULT));
            let began = Instant::now();
            let mut tries = 0u64;
            loop {
                tries += 1;
                context.is_active();
                let patience = timeout.saturating_sub(began.elapsed()).clamp(Duration::from_millis(1), TRY_MAX);
                let last = match client.get(url.clone()).timeout(patience).send().await {
                    Ok(answer) if u64::from(answer.status().as_u16()) == expected => {
                        let numbers = [("status", expected), ("tries", tries), ("ms", began.elapsed().as_millis() as u64)];
                        return Ok(numbers.map(|(name, number)| (name.to_owned(), number.to_string())).into());
                    }
                    Ok(answer) => format!("it last answered {}", answer.status().as_u16()),
                    Err(error) => format!("it last did not answer: {}", innermost(&error)),
                };
                if began.elapsed() + every >= timeout {
                    let ms = timeout.as_millis();
                    return Err(ToolError::failed(format!("{url} did not answer {expected} within {ms} ms ({tries} tries): {last}")));
                }
                pause(context, every).await;
            }
        }
        .boxed()
    }
}

/// Sleeps; a long pause is no reason to be taken for stuck.
async fn pause(context: &Context, length: Duration) {
    let until = tokio::time::Instant::now() + length;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep_until(until.min(tokio::time::Instant::now() + Duration::from_secs(1))).await;
        context.is_active();
    }
}
