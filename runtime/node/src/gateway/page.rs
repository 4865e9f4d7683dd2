//! Pages that fit into a message: entries may be large (inputs, outputs of 64 KiB), so a page can be full before its `limit`.
//!
//! A cut page is a page like any other: its `next` says where it goes on. Replies without `next` are never cut.

use serde_json::Value;

/// Lists that go on after an entry, and the field of an entry that `after` takes.
const LISTS: [(&str, &str); 2] = [("tasks", "task"), ("epics", "epic")];
/// Room for a `next` that was null before.
const NEXT_BYTES: usize = 2048;

/// The text of a reply; of a list only as many entries as fit into `bytes_max`. Longer than that only if nothing can be cut.
pub(super) fn fit(mut reply: Value, bytes_max: usize) -> String {
    let text = reply.to_string();
    if text.len() <= bytes_max || reply.get("next").is_none() {
        return text;
    }
    let Some((list, cursor)) = LISTS.into_iter().find(|(list, _)| reply[list].is_array()) else { return text };
    let Value::Array(mut entries) = reply[list].take() else { return text };
    let sizes: Vec<usize> = entries.iter().map(|entry| entry.to_string().len() + 1).collect();
    let mut left = (bytes_max + sizes.iter().sum::<usize>()).saturating_sub(text.len() + NEXT_BYTES);
    let fitting = sizes.iter().take_while(|size| left.checked_sub(**size).inspect(|rest| left = *rest).is_some()).count();
    // Without a single entry it would be a page that never goes on.
    let Some(last) = fitting.checked_sub(1) else { return text };
    entries.truncate(fitting);
    reply["next"] = entries[last][cursor].clone();
    reply[list] = entries.into();
    reply.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::fit;

    const BYTES_MAX: usize = 20_000;

    fn page(sizes: &[usize], next: Value) -> Value {
        let epics: Vec<Value> =
            sizes.iter().enumerate().map(|(i, size)| json!({ "epic": format!("e-{i}"), "inputs": "x".repeat(*size) })).collect();
        json!({ "epics": epics, "next": next, "index": 7 })
    }

    fn read(text: &str) -> Value {
        serde_json::from_str(text).expect("a reply is JSON")
    }

    #[test]
    fn a_page_that_fits_is_left_as_it_is() {
        let whole = page(&[10, 10], Value::Null);
        assert_eq!(read(&fit(whole.clone(), BYTES_MAX)), whole);
    }

    #[test]
    fn a_page_that_does_not_fit_goes_on_after_its_last_entry() {
        let text = fit(page(&[8000, 8000, 8000, 8000], Value::Null), BYTES_MAX);
        assert!(text.len() <= BYTES_MAX, "it has {} bytes", text.len());
        let cut = read(&text);
        assert_eq!((cut["epics"].as_array().map(Vec::len), &cut["next"], &cut["index"]), (Some(2), &json!("e-1"), &json!(7)));
    }

    #[test]
    fn what_cannot_be_cut_stays_too_long_and_is_refused_by_the_caller() {
        assert!(fit(page(&[50_000], Value::Null), BYTES_MAX).len() > BYTES_MAX, "one entry is larger than a page");
        let no_list = json!({ "lines": ["x".repeat(50_000)], "next": null });
        assert!(fit(no_list, BYTES_MAX).len() > BYTES_MAX, "exports page themselves");
    }
}
