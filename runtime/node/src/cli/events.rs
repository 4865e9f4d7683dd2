//! `amphi events`: public events of all epics, as the stream holds them.

use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::EpicId;
use amphi_protocol::subjects;
use clap::Args;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

use super::Global;
use super::client::Client;
use super::event_line::{Detail, event_line};
use super::failure::{Failure, exit};
use super::feed::{Feed, FeedItem};
use super::screen::{Screen, talk};

/// `amphi events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with what happens from now
    #[arg(long, short)]
    follow: bool,
    /// Only events of this epic
    #[arg(long, value_name = "EPIC")]
    epic: Option<EpicId>,
    /// Only events of this type, for instance task.failed
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
}

/// How long the stream may be unreadable before a command without `--follow` gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints what the stream holds, and with `--follow` what comes.
pub async fn events(global: &Global, screen: Screen, args: EventsArgs) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    let filter = args.epic.as_ref().map_or(subjects::EVENTS_SUBJECTS.to_owned(), subjects::epic_events);
    let feed = Feed::open(client.nats(), subjects::EVENTS_STREAM, filter, true);
    tokio::select! {
        result = print_all(feed, screen, &args) => result,
        _ = tokio::signal::ctrl_c() => Ok(exit::INTERRUPTED),
    }
}

async fn print_all(mut feed: Feed, screen: Screen, args: &EventsArgs) -> Result<u8, Failure> {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut pending = None;
    let mut told = false;
    let give_up = Instant::now() + PATIENCE;
    loop {
        let item = tokio::select! {
            item = feed.next() => item,
            () = sleep_until(give_up), if !args.follow && pending.is_none() => {
                return Err(Failure::new(ErrorCode::ClusterUnreachable, "the stream of events cannot be read").hint("amphi doctor"));
            }
        };
        match item {
            FeedItem::Opened { pending: 0 } if !args.follow => return Ok(exit::OK),
            FeedItem::Opened { pending: count } => pending = Some(count),
            FeedItem::Closed { cause } => {
                if !std::mem::replace(&mut told, true) {
                    talk(&format!("events are not readable now ({cause}); trying again"));
                }
            }
            FeedItem::Message { body, .. } => {
                if let Ok(event) = serde_json::from_slice::<Value>(&body) {
                    print_one(&event, screen, args, &mut last)?;
                }
                pending = pending.map(|count| count.saturating_sub(1));
                if !args.follow && pending == Some(0) {
                    return Ok(exit::OK);
                }
            }
        }
    }
}

fn print_one(event: &Value, screen: Screen, args: &EventsArgs, last: &mut BTreeMap<u64, u64>) -> Result<(), Failure> {
    let (shard, seq) = (event["shard"].as_u64().unwrap_or(0), event["seq"].as_u64().unwrap_or(0));
    let newest = last.entry(shard).or_default();
    if seq <= *newest {
        return Ok(());
    }
    *newest = seq;
    if args.kind.as_deref().is_some_and(|kind| event["type"] != kind) {
        return Ok(());
    }
    if screen.json {
        return screen.json(event);
    }
    event_line(event, Detail::All, screen.style).map_or(Ok(()), |line| screen.line(&line))
}

/// RFC 3339 as milliseconds since 1970.
pub fn timestamp_ms(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

/// The local wall clock. Only for durations and ages that people read.
pub fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
