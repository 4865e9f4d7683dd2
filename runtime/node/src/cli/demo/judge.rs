//! What must be true after a release, looked at from outside: the history, what the services answer, what the database holds.

use serde_json::Value;

use super::TASKS;
use super::customers::Receipts;
use super::shop::{Database, Shop};
use super::voice::Voice;
use super::watch::Ended;
use crate::cli::failure::Failure;
use crate::cli::screen::text_of;

/// The release went the way that the epic prescribes.
pub(super) fn history(voice: &mut Voice, ended: &Ended) -> Result<(), Failure> {
    voice.check("the epic succeeded", ended.state == "succeeded", &ended.state)?;
    let all = TASKS.concat();
    let succeeded = all.iter().filter(|task| last(ended, "task.succeeded", task).is_some()).count();
    voice.check("every task succeeded", succeeded == all.len(), &format!("{succeeded} of {}", all.len()))?;
    let locked = |event: &&Value| event["data"]["resource"] == "database_schema" && event["data"]["mode"] == "write";
    let granted = ended.events.iter().filter(locked).find(|event| event["type"] == "lock.granted").map(|event| event["seq"].as_u64());
    let order = [
        last(ended, "task.succeeded", "create_snapshot"),
        granted.flatten(),
        last(ended, "task.succeeded", "apply_migration"),
        first(ended, "task.started", "deploy_api"),
        last(ended, "task.succeeded", "deploy_api"),
        first(ended, "task.started", "deploy_web"),
        last(ended, "task.succeeded", "deploy_web"),
    ];
    let is_ordered = order.iter().all(Option::is_some) && order.is_sorted();
    let found = order.iter().map(|seq| seq.map_or("never".to_owned(), |seq| format!("#{seq}"))).collect::<Vec<_>>().join(" ");
    voice.check("first the snapshot, then the schema under its write lock, then the API, then the web", is_ordered, &found)
}

fn of<'e>(ended: &'e Ended, kind: &'e str, task: &'e str) -> impl DoubleEndedIterator<Item = u64> + 'e {
    ended.events.iter().filter(move |event| event["type"] == kind && event["task"] == task).filter_map(|event| event["seq"].as_u64())
}

fn first(ended: &Ended, kind: &str, task: &str) -> Option<u64> {
    of(ended, kind, task).next()
}

pub(super) fn last(ended: &Ended, kind: &str, task: &str) -> Option<u64> {
    of(ended, kind, task).next_back()
}

/// Both services answer, and are of this release.
pub(super) async fn live(voice: &mut Voice, shop: &Shop, version: &str) -> Result<(), Failure> {
    let schema = u64::from(version != "1.0.0") + 1;
    let (status, api) = shop.get_json(&format!("{}/health", shop.api)).await;
    let is_live = status == 200 && api["version"] == version && api["schema"] == schema;
    voice.check(&format!("the API serves {version} on schema {schema}"), is_live, &format!("{status} {api}"))?;
    let (status, orders) = shop.get_json(&format!("{}/orders?limit=1", shop.api)).await;
    let has_totals = orders["orders"].get(0).map(|order| order["total_cents"].is_u64());
    let is_right = status == 200 && has_totals.is_none_or(|has| has == (schema > 1));
    voice.check(&format!("its orders {} totals", if schema > 1 { "have" } else { "have no" }), is_right, "")?;
    let (status, web) = shop.get_json(&format!("{}/health", shop.web)).await;
    let (page_status, page) = shop.get(&format!("{}/", shop.web)).await;
    let is_live = status == 200 && web["version"] == version && page_status == 200 && page.contains(&format!("<h1>Shop {version}</h1>"));
    voice.check(&format!("the web serves {version}"), is_live, &text_of(&web, "version"))
}

/// The new schema is there, and every order that customers have a receipt for.
pub(super) fn data(voice: &mut Voice, before: &Database, after: &Database, receipts: &Receipts) -> Result<(), Failure> {
    voice.check("the database is sound", after.integrity == "ok", &after.integrity)?;
    let totals = format!("schema {} -> {}, {} orders, {} wrong totals", before.schema, after.schema, after.keys.len(), wrong(after));
    let is_applied = after.schema == 2 && after.totals_wrong == Some(0) && has_totals(after) && !has_totals(before);
    voice.check("the migration is applied, and every order has its total", is_applied, &totals)?;
    whole(voice, before, after, receipts)?;
    let both = ["1.0.0", "2.0.0"].map(|release| receipts.by_release.get(release).copied().unwrap_or(0));
    let found = format!("{} by release 1, {} by release 2", both[0], both[1]);
    voice.check("both releases took orders", both.iter().all(|count| *count > 0), &found)
}

fn has_totals(database: &Database) -> bool {
    database.columns.iter().any(|column| column == "total_cents")
}

fn wrong(after: &Database) -> String {
    after.totals_wrong.map_or("unknown".to_owned(), |count| count.to_string())
}

/// A failed release left the old schema, and every order, also those that came in meanwhile.
pub(super) fn data_as_before(voice: &mut Voice, before: &Database, after: &Database, receipts: &Receipts) -> Result<(), Failure> {
    voice.check("the database is sound", after.integrity == "ok", &after.integrity)?;
    let found = format!("schema {}, columns {}", after.schema, after.columns.join(" "));
    voice.check("the schema is what it was", after.schema == before.schema && after.columns == before.columns, &found)?;
    whole(voice, before, after, receipts)
}

/// Nothing is lost, nothing changed, nothing is there twice.
pub(super) fn whole(voice: &mut Voice, before: &Database, after: &Database, receipts: &Receipts) -> Result<(), Failure> {
    let count = before.lines.len();
    let is_same = count > 0 && after.lines.get(..count) == Some(&before.lines[..]);
    voice.check("the orders from before are what they were", is_same, &format!("{count} orders, by checksum"))?;
    let missing = receipts.accepted.iter().filter(|key| !after.keys.contains(key)).count();
    let found = format!(
        "{} receipts, {missing} missing; {} sent again, the longest wait was {} ms",
        receipts.accepted.len(),
        receipts.sent_again,
        receipts.longest.as_millis()
    );
    voice.check("every order that was accepted is there", missing == 0, &found)?;
    voice.check("every customer got a receipt", receipts.without.is_empty(), receipts.without.first().map_or("", String::as_str))?;
    let found = format!("{} orders, {} lines", after.keys.len(), after.logged);
    voice.check("the order log tells the same", after.logged == after.keys.len(), &found)
}
