//! `http.check {url, status, timeout, retries}`: a GET that must answer with a status. Redirects are answers, they are not followed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::arguments::Kind;
use super::http::{client, innermost, parse_url};
use super::{Arguments, Context, Parameter, Tool, ToolError};

const TIMEOUT_MS_DEFAULT: u64 = 10_000;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct HttpCheck;

impl Tool for HttpCheck {
    fn name(&self) -> &'static str {
        "http.check"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "url", kind: Kind::Text, is_required: true },
            Parameter { name: "status", kind: Kind::Count { min: 100, max: 599 }, is_required: false },
            Parameter { name: "timeout", kind: Kind::Duration { ms_max: 300_000 }, is_required: false },
            Parameter { name: "retries", kind: Kind::Count { min: 0, max: 100 }, is_required: false },
        ]
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let text = arguments.text("url").unwrap_or_default();
            let url = parse_url(text).map_err(ToolError::failed)?;
            let client = client().map_err(ToolError::failed)?;
            let expected = arguments.number("status").unwrap_or(200);
            let timeout = Duration::from_millis(arguments.number("timeout").unwrap_or(TIMEOUT_MS_DEFAULT));
            let tries = 1 + arguments.number("retries").unwrap_or(0);
            let mut last = String::new();
            for number in 1..=tries {
                if number > 1 {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                let began = Instant::now();
                context.is_active();
                last = match client.get(url.clone()).timeout(timeout).send().await {
                    Ok(answer) if u64::from(answer.status().as_u16()) == expected => {
                        let ms = began.elapsed().as_millis().to_string();
                        return Ok(BTreeMap::from([("status".to_owned(), expected.to_string()), ("ms".to_owned(), ms)]));
                    }
                    Ok(answer) => format!("{url} answered {}, expected {expected}", answer.status().as_u16()),
                    Err(error) => format!("{url} did not answer: {}", innermost(&error)),
                };
            }
            Err(ToolError::failed(if tries > 1 { format!("{last} ({tries} tries)") } else { last }))
        }
        .boxed()
    }
}
