//! What is read back from the journal is what was written, or a Manager that replays would stand elsewhere than the one that decided.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use amphi_protocol::ids::{CommitIndex, Epoch, EventSeq, ShardId, Timestamp};
use amphi_protocol::journal::{Input, Record, SCHEMA};
use proptest::prelude::*;
use serde_json::json;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_survive_the_journal_to_the_last_bit(number in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL) {
        let record = Record {
            schema: SCHEMA,
            shard: ShardId(0),
            index: CommitIndex(1),
            epoch: Epoch(1),
            now_ms: Timestamp(1),
            commit_id: String::new(),
            prev_hash: String::new(),
            seq: EventSeq(0),
            snapshot: None,
            inputs: vec![Input::Signal { subject: "go".to_owned(), data: json!({ "number": number }), before: None }],
            decisions: vec![vec![]],
        };
        prop_assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    }
}
