//! Whatever is done to a journal is noticed, and nothing that is fed to the checker makes it panic.

mod support;

use amphi_protocol::ids::CommitIndex;
use amphi_verify::{ExportLine, Law, VerifyError, check_lines};
use proptest::prelude::*;

/// Export lines of one good journal, header and end included.
fn journals() -> Vec<Vec<String>> {
    support::good::all().into_iter().map(|(_, journal)| journal.lines()).collect()
}

/// Noticed: no verdict at all, or one against the chain.
fn is_noticed(lines: &[String]) -> bool {
    check_lines(lines, None).map_or(true, |verdict| verdict.violated().iter().any(|law| matches!(law, Law::S2 | Law::S3)))
}

fn records(lines: &[String]) -> Vec<usize> {
    (0..lines.len()).filter(|&at| matches!(ExportLine::decode(&lines[at]), Ok(ExportLine::Record { .. }))).collect()
}

#[test]
fn a_dropped_repeated_or_moved_record_is_always_noticed() {
    for lines in journals() {
        let records = records(&lines);
        for (place, &at) in records.iter().enumerate() {
            let mut dropped = lines.clone();
            dropped.remove(at);
            assert!(is_noticed(&dropped), "record at line {at} dropped");
            let mut repeated = lines.clone();
            repeated.insert(at, lines[at].clone());
            assert!(is_noticed(&repeated), "record at line {at} repeated");
            for &other in &records[place + 1..] {
                let mut moved = lines.clone();
                moved.swap(at, other);
                assert!(is_noticed(&moved), "records at lines {at} and {other} swapped");
            }
        }
    }
}

#[test]
fn a_changed_byte_in_a_record_is_always_noticed() {
    for lines in journals() {
        for at in records(&lines) {
            let Ok(ExportLine::Record { index, record }) = ExportLine::decode(&lines[at]) else { unreachable!("it is a record") };
            for (position, byte) in record.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_digit()).step_by(3) {
                let mut bytes = record.clone().into_bytes();
                bytes[position] = if byte == b'9' { b'1' } else { byte + 1 };
                let record = String::from_utf8(bytes).expect("a digit for a digit");
                let mut changed = lines.clone();
                changed[at] = ExportLine::Record { index, record }.encode();
                assert!(is_noticed(&changed), "byte {position} of line {at} changed");
            }
        }
    }
}

#[test]
fn a_malformed_export_is_an_error_with_its_line() {
    let good = support::good::all().swap_remove(0).1.lines();
    let with = |at: usize, line: &str| {
        let mut lines = good.clone();
        lines[at] = line.to_owned();
        check_lines(lines, None).expect_err("it is malformed")
    };
    assert!(matches!(check_lines(Vec::<String>::new(), None), Err(VerifyError::Empty)));
    assert!(matches!(with(0, &good[1]), VerifyError::Header { line: 1 }));
    assert!(matches!(with(3, &good[0]), VerifyError::Header { line: 4 }));
    assert!(matches!(with(2, "{"), VerifyError::Line { line: 3, .. }));
    assert!(matches!(with(2, "{\"what\":1}"), VerifyError::Line { line: 3, .. }));
    assert!(matches!(with(2, "{\"index\":2,\"record\":\"{}\"}"), VerifyError::Record { line: 3, .. }));
    assert!(matches!(with(2, "{\"index\":2,\"record\":\"{\\\"schema\\\":99}\"}"), VerifyError::Record { line: 3, .. }));
    assert!(matches!(with(2, "{\"document\":\"00\",\"json\":\"{}\"}"), VerifyError::Inconsistent { line: 3, .. }));
    assert!(matches!(with(0, "{\"amphi_export\":2,\"shard\":0}"), VerifyError::Line { line: 1, .. }));
    assert!(matches!(with(0, "{\"amphi_export\":1,\"shard\":7}"), VerifyError::Inconsistent { line: 2, .. }));
    let misplaced = good[2].replacen("\"index\":2", "\"index\":3", 1);
    assert!(matches!(with(2, &misplaced), VerifyError::Inconsistent { line: 3, .. }));
    let mut longer = good.clone();
    longer.push(good[1].clone());
    assert!(matches!(check_lines(longer, None), Err(VerifyError::AfterEnd { .. })));
}

#[test]
fn a_specification_that_was_not_exported_is_named() {
    let (_, journal) = support::good::all().into_iter().find(|(name, _)| *name == "large-specification").expect("the scene exists");
    let without: Vec<String> = journal.lines().into_iter().filter(|line| !line.contains("\"document\"")).collect();
    assert!(matches!(check_lines(without, None), Err(VerifyError::MissingDocument { .. })));
}

#[test]
fn lines_survive_a_round_trip() {
    let end = ExportLine::End { index: CommitIndex(7), hash: "ab".into() };
    assert_eq!(ExportLine::decode(&end.encode()).expect("its own encoding"), end);
    for line in journals().into_iter().flatten() {
        assert_eq!(ExportLine::decode(&line).expect("its own encoding").encode(), line);
    }
}

/// The record of a line with `edit` applied to its JSON, links restored by nobody.
fn edited(line: &str, edit: impl Fn(&mut serde_json::Value)) -> String {
    let Ok(ExportLine::Record { index, record }) = ExportLine::decode(line) else { return line.to_owned() };
    let mut value = serde_json::from_str(&record).expect("a record is JSON");
    edit(&mut value);
    ExportLine::Record { index, record: value.to_string() }.encode()
}

/// The `n`th number anywhere in `value` becomes `with`.
fn set_number(value: &mut serde_json::Value, n: &mut usize, with: u64) {
    match value {
        serde_json::Value::Number(number) => {
            if *n == 0 {
                *number = with.into();
            }
            *n = n.wrapping_sub(1);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| set_number(item, n, with)),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(|field| set_number(field, n, with)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::String(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn no_text_makes_it_panic(lines in proptest::collection::vec(".{0,200}", 0..8)) {
        let _verdict = check_lines(&lines, None);
    }

    #[test]
    fn no_damaged_byte_makes_it_panic(which in 0usize..15, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let text = journals()[which].join("\n");
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let damaged = String::from_utf8_lossy(&bytes).into_owned();
        let _verdict = check_lines(damaged.lines(), None);
    }

    #[test]
    fn no_number_in_a_record_makes_it_panic(
        which in 0usize..15,
        at in any::<prop::sample::Index>(),
        n in 0usize..40,
        with in prop_oneof![Just(0), Just(1), Just(2), Just(u64::from(u32::MAX)), Just(u64::MAX), any::<u64>()],
    ) {
        let mut lines = journals().swap_remove(which);
        let at = at.index(lines.len());
        lines[at] = edited(&lines[at], |value| set_number(value, &mut n.clone(), with));
        let _verdict = check_lines(&lines, None);
    }

    #[test]
    fn no_order_of_records_makes_it_panic(which in 0usize..15, seed in proptest::collection::vec(any::<prop::sample::Index>(), 1..30)) {
        let good = journals().swap_remove(which);
        let records = records(&good);
        let shuffled = seed.iter().map(|at| good[records[at.index(records.len())]].clone());
        let lines: Vec<String> = good[..1].iter().cloned().chain(shuffled).collect();
        let _verdict = check_lines(&lines, None);
    }
}
