//! What conditions mean, and that nothing that somebody writes takes long or breaks.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Expression, TaskFacts, Values};

fn map(value: Value) -> BTreeMap<String, Value> {
    value.as_object().unwrap().clone().into_iter().collect()
}

fn evaluate(text: &str) -> Result<bool, String> {
    let inputs =
        map(json!({"n": 3, "big": u64::MAX, "f": 1.5, "s": "prod", "l": ["a", "b"], "o": {"k": {"d": 1}}, "long": "x".repeat(60_000)}));
    let built = map(json!({"ok": "yes", "a-b": 1, "list": [1, 2, 3]}));
    let tasks = [("build", TaskFacts { state: "succeeded", outputs: Some(&built) }), ("in", TaskFacts { state: "skipped", outputs: None })];
    let tasks = tasks.into_iter().map(|(name, facts)| (name.to_owned(), facts)).collect();
    let expression = Expression::parse(text).map_err(|faults| format!("{}: {}", faults[0].at, faults[0].message))?;
    expression.evaluate(&Values { inputs: &inputs, tasks, success: true, failure: false })
}

#[test]
fn a_condition_reads_inputs_outputs_states_and_functions() {
    for (text, expected) in [
        ("true", true),
        ("inputs.n > 2 && inputs.s == 'prod'", true),
        ("inputs.n + 1 == 4 && inputs['n'] == 3", true),
        ("inputs.big > 5", true),
        ("inputs.f < 2", true),
        ("'a' in inputs.l && size(inputs.l) == 2", true),
        ("inputs.l.exists(x, x == 'b') && !inputs.l.all(x, x == 'b')", true),
        ("inputs.o.k.d == 1", true),
        ("tasks.build.outputs.ok == 'yes' && tasks.build.state == 'succeeded'", true),
        ("tasks.build.outputs['a-b'] == 1 && tasks.build.outputs.list[0] == 1", true),
        ("tasks['in'].state == 'skipped'", true),
        ("has(tasks.build.outputs.nope)", false),
        ("tasks['in'].state == 'succeeded' && tasks['in'].outputs.x == 1", false),
        ("always() && !failure() && success()", true),
        ("inputs.s.startsWith('pr') && int('4') == 4 && string(inputs.n) == '3'", true),
        ("inputs.n == 3 ? inputs.s == 'prod' : false", true),
    ] {
        assert_eq!(evaluate(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_cannot_be_decided_is_an_error_in_words() {
    for (text, part) in [
        ("inputs.n", "int, not true or false"),
        ("tasks.build.outputs.nope == 1", "`nope`"),
        ("inputs.n / 0 == 1", "division by zero"),
        ("inputs.s + 1 == 'x'", "does not work on string and int"),
        ("inputs.l[9] == 'a'", "no element"),
        ("inputs.o.exists(k, k == 'x')", "is an object"),
        ("inputs.s < inputs.n", "overload"),
        ("[1, 2, 3].map(x, inputs.long + inputs.long).all(y, y == 'a')", "a loop"),
        ("inputs.l.filter(x, x + inputs.long + inputs.long + inputs.long == '') == []", "too long"),
        ("int('x') == 1", "int"),
    ] {
        let error = evaluate(text).expect_err(text);
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn unknown_names_and_bad_syntax_have_a_place() {
    for (text, at, part) in [
        ("inputs.n ==", 11, "cannot be read"),
        ("1 == 1 && foo", 10, "no `foo`"),
        ("true && foo.bar(1)", 12, "no function `bar`"),
        ("now() == 1", 0, "no function `now`"),
        ("timestamp('x') == 1", 0, "no function"),
        ("inputs.s.matches('(a+)+$')", 9, "no function `matches`"),
        ("inputs == 1", 0, "alone"),
        ("tasks.a == 1", 0, "no value"),
        ("tasks.a.outputs == 1", 0, "no value"),
        ("matrix.i == '1'", 0, "once for all"),
        ("secrets.X == 'a'", 0, "secrets"),
        ("true || ${{ inputs.n }}", 8, "no place"),
        ("always(1)", 0, "takes nothing"),
        ("[1].all(x, [2].all(y, true))", 0, "loops inside"),
        ("Foo{a: 1}", 0, "type"),
    ] {
        let faults = Expression::parse(text).expect_err(text);
        assert_eq!(faults[0].at, at, "{text}: {faults:?}");
        assert!(faults[0].message.contains(part), "{text}: {faults:?}");
    }
}

#[test]
fn only_always_and_failure_outlive_a_failure() {
    for (text, expected) in
        [("success()", false), ("inputs.n == 1", false), ("failure() || inputs.n == 1", true), ("always() && true", true)]
    {
        assert_eq!(Expression::parse(text).unwrap().names().after_failure, expected, "{text}");
    }
}

#[test]
fn no_text_exhausts_the_stack_of_a_worker() {
    let shapes: [fn(usize) -> String; 9] = [
        |n| "(".repeat(n) + "true" + &")".repeat(n),
        |n| "!".repeat(n) + "true",
        |n| "-".repeat(n) + "1 == 1",
        |n| "1+".repeat(n) + "1 == 1",
        |n| "true?true:".repeat(n) + "true",
        |n| "true&&".repeat(n) + "true",
        |n| "[".repeat(n) + &"]".repeat(n) + " == []",
        |n| "[1].all(x,".repeat(n) + "true" + &")".repeat(n),
        |n| "inputs.o".to_owned() + &".k".repeat(n) + " == 1",
    ];
    let work = move || {
        for shape in shapes {
            for n in [3, 16, 31, 33, 100, 200, 330, 500, 1000] {
                let _any = evaluate(&shape(n));
            }
        }
    };
    std::thread::Builder::new().stack_size(1024 * 1024).spawn(work).unwrap().join().unwrap();
}
