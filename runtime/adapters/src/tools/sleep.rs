//! `sleep {ms}`: succeeds after a while.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use super::arguments::Kind;
use super::{Arguments, Context, Parameter, Tool, ToolError};

/// A week.
const MS_MAX: u64 = 7 * 24 * 3600 * 1000;

pub(super) struct Sleep;

impl Tool for Sleep {
    fn name(&self) -> &'static str {
        "sleep"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[Parameter { name: "ms", kind: Kind::Count { min: 0, max: MS_MAX }, is_required: true }]
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let until = Instant::now() + Duration::from_millis(arguments.number("ms").unwrap_or(0));
            while Instant::now() < until {
                sleep_until(until.min(Instant::now() + Duration::from_secs(1))).await;
                context.is_active();
            }
            Ok(BTreeMap::new())
        }
        .boxed()
    }
}
