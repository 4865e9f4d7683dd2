//! People who buy while the release goes on. What was accepted is remembered, to be looked for in the database afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::shop::Shop;
use super::stage::broken;
use crate::cli::failure::Failure;

/// Orders before the release.
pub(super) const EARLY_ORDERS: u64 = 80;
/// How many of them are placed at once.
const AT_ONCE: usize = 4;
/// Pause of a customer between two orders during the release.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause before an order that was not answered is sent again, under the same key.
const AGAIN_PAUSE: Duration = Duration::from_millis(100);
/// How long an order is sent again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Product that only later customers buy, see `ops/sabotage.py`.
const RARE_PRODUCT: u64 = 3;
/// Products that everybody buys.
const PRODUCTS: [u64; 4] = [1, 2, 4, 5];

/// What customers know.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    /// Keys of the accepted orders.
    pub(super) accepted: BTreeSet<String>,
    /// How many each release took.
    pub(super) by_release: BTreeMap<String, u64>,
    /// Orders that had to be sent again.
    pub(super) sent_again: u64,
    /// The longest that a customer waited for a receipt.
    pub(super) longest: Duration,
    /// Orders without one, and the last answer.
    pub(super) without: Vec<String>,
}

impl Receipts {
    fn add(&mut self, other: Self) {
        self.accepted.extend(other.accepted);
        for (release, count) in other.by_release {
            *self.by_release.entry(release).or_default() += count;
        }
        self.sent_again += other.sent_again;
        self.longest = self.longest.max(other.longest);
        self.without.extend(other.without);
    }

    pub(super) fn as_json(&self, in_database: usize) -> Value {
        let longest = u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX);
        json!({ "accepted": self.accepted.len(), "in_database": in_database, "by_release": self.by_release, "sent_again": self.sent_again,
            "longest_ms": longest, "without_receipt": self.without })
    }
}

/// Places the orders that are there before the release.
pub(super) async fn early_orders(shop: &Shop) -> Result<Receipts, Failure> {
    let orders = (0..EARLY_ORDERS).map(|number| async move {
        let is_rare = number * 2 > EARLY_ORDERS && number.is_multiple_of(10);
        let product = if is_rare { RARE_PRODUCT } else { PRODUCTS[(number % 4) as usize] };
        place(shop, &format!("early-{number}"), number, product).await
    });
    let mut all = Receipts::default();
    stream::iter(orders)
        .buffer_unordered(AT_ONCE)
        .for_each(|receipts| {
            all.add(receipts);
            std::future::ready(())
        })
        .await;
    match all.without.first() {
        Some(why) => Err(broken(format!("release 1 does not take an order: {why}"))),
        None => Ok(all),
    }
}

/// Places one order until it is accepted, refused, or patience ends.
async fn place(shop: &Shop, key: &str, number: u64, product: u64) -> Receipts {
    let (began, mut receipts) = (Instant::now(), Receipts::default());
    let customer = format!("Customer {}", number % 7);
    loop {
        let (status, told) = shop.order(key, &customer, product, 1 + number % 3).await;
        receipts.longest = began.elapsed();
        match status {
            200 | 201 => {
                receipts.accepted.insert(key.to_owned());
                receipts.by_release.insert(told, 1);
                return receipts;
            }
            0 | 500.. if began.elapsed() < PATIENCE => {
                receipts.sent_again = 1;
                sleep(AGAIN_PAUSE).await;
            }
            _ => {
                receipts.without.push(format!("{key}: {status} {told}"));
                return receipts;
            }
        }
    }
}

/// Customers at the door, one order after the other until they are told to stop.
pub(super) struct Customers {
    stop: CancellationToken,
    work: JoinSet<Receipts>,
}

impl Customers {
    pub(super) fn come(shop: Shop) -> Self {
        let (stop, mut work) = (CancellationToken::new(), JoinSet::new());
        let told = stop.clone();
        work.spawn(async move {
            let mut all = Receipts::default();
            for number in 0.. {
                if told.is_cancelled() {
                    break;
                }
                all.add(place(&shop, &format!("order-{number}"), number, PRODUCTS[(number % 4) as usize]).await);
                sleep(PAUSE).await;
            }
            all
        });
        Self { stop, work }
    }

    /// The last order is finished; then what all of them, and those `before`, know.
    pub(super) async fn leave(mut self, mut before: Receipts) -> Receipts {
        self.stop.cancel();
        while let Some(receipts) = self.work.join_next().await {
            // A customer that panicked is a bug, and shows as orders that are missing.
            before.add(receipts.unwrap_or_default());
        }
        before
    }
}
