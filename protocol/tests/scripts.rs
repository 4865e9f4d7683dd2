//! References in run texts: whatever a value holds, it stays one word of data, and where that cannot be promised it is refused.

#![allow(clippy::unwrap_used, reason = "a test says so by panicking")]

use std::process::Command;

use amphi_protocol::api::ErrorCode;
use amphi_protocol::document::{CompileOptions, Compiled, Script, Work, compile};
use proptest::prelude::*;
use serde_json::json;

fn compiled(run: &str) -> Compiled {
    let document = json!({"version": 1, "name": "x", "inputs": {"v": "a", "w": "b"}, "tasks": {"t": {"run": run}}});
    compile(&document.to_string(), &CompileOptions::default())
}

#[track_caller]
fn script(run: &str) -> Script {
    let compiled = compiled(run);
    assert_eq!(compiled.problems, vec![], "{run}");
    match compiled.spec.unwrap().tasks.remove(0).work {
        Work::Run(script) => script,
        Work::Tool { .. } | Work::Wait(_) | Work::Epic(_) => panic!("a run text became something else"),
    }
}

#[track_caller]
fn becomes(run: &str, text: &str) {
    assert_eq!(script(run).text, text, "{run}");
}

#[track_caller]
fn refused(run: &str, where_: &str) {
    let problems = compiled(run).problems;
    let all: Vec<_> = problems.iter().map(|problem| (problem.code, problem.message.as_str())).collect();
    assert!(!all.is_empty(), "accepted: {run}");
    assert!(all.iter().all(|(code, _)| *code == ErrorCode::RunUnsafeSubstitution), "{run}: {all:?}");
    assert!(all.iter().any(|(_, message)| message.contains(where_)), "{run}: {all:?}");
    assert!(problems.iter().all(|problem| problem.hint.is_some()));
}

#[test]
fn a_reference_becomes_a_variable_quoted_for_its_surroundings() {
    becomes("echo ${{ inputs.v }}", r#"echo "${AMPHI_V1}""#);
    becomes("echo a${{inputs.v}}b", r#"echo a"${AMPHI_V1}"b"#);
    becomes(r#"echo "a ${{ inputs.v }} b""#, r#"echo "a ${AMPHI_V1} b""#);
    becomes("echo 'a ${{ inputs.v }} b'", r#"echo 'a '"${AMPHI_V1}"' b'"#);
    becomes("X=${{ inputs.v }} make > ${{ inputs.w }}", r#"X="${AMPHI_V1}" make > "${AMPHI_V2}""#);
    becomes(
        "echo hi # about ${{ inputs.v }}, isn't it\necho ${{ inputs.v }}",
        "echo hi # about ${AMPHI_V1}, isn't it\necho \"${AMPHI_V1}\"",
    );
}

#[test]
fn the_same_reference_is_the_same_variable() {
    let script = script("echo ${{ inputs.v }} '${{inputs.v}}' ${{ inputs.w }}");
    assert_eq!(script.text, r#"echo "${AMPHI_V1}" ''"${AMPHI_V1}"'' "${AMPHI_V2}""#);
    let names: Vec<_> = script.variables.iter().map(|(name, reference)| (name.as_str(), reference.to_string())).collect();
    assert_eq!(names, [("AMPHI_V1", "inputs.v".to_owned()), ("AMPHI_V2", "inputs.w".to_owned())]);
}

#[test]
fn a_text_without_references_is_left_alone_whatever_it_is() {
    for run in ["echo $(date) `x` $((1<<2))", "cat <<EOF\n$x\nEOF", "echo 'never closed", "case $1 in a) ;; esac", "echo $'a' \\"] {
        let script = script(run);
        assert_eq!(script.text, run);
        assert!(script.variables.is_empty());
    }
}

#[test]
fn a_reference_where_values_are_read_again_is_refused() {
    refused("echo $(cat ${{ inputs.v }})", "$( )");
    refused(r#"echo "$(cat "${{ inputs.v }}")""#, "$( )");
    refused("echo $(echo $(echo ${{ inputs.v }}))", "$( )");
    refused("x=$(echo ')' ${{ inputs.v }})", "$( )");
    refused("x=$(echo # )\n${{ inputs.v }})", "$( )");
    refused("echo `cat ${{ inputs.v }}`", "backticks");
    refused("echo \"`cat ${{ inputs.v }}`\"", "backticks");
    refused("echo $((1 + ${{ inputs.v }}))", "arithmetic");
    refused("(( ${{ inputs.v }} > 1 ))", "arithmetic");
    refused("echo ${X:-${{ inputs.v }}}", "${ }");
    refused("cat <<EOF\n${{ inputs.v }}\nEOF", "heredoc");
    refused("cat <<'EOF'\nx ${{ inputs.v }}\nEOF\n", "heredoc");
    refused("cat <<-\"EO F\"\n\tx ${{ inputs.v }}\n\tEO F\n", "heredoc");
    refused("cat <<A; cat <<B\n1\nA\n${{ inputs.v }}\nB\n", "heredoc");
    refused("cat <<${{ inputs.v }}\nx\n", "heredoc");
    refused("echo \\${{ inputs.v }}", "backslash");
    refused("echo \"\\${{ inputs.v }}\"", "backslash");
    refused("echo $${{ inputs.v }}", "behind a `$`");
}

#[test]
fn a_reference_where_shells_disagree_is_refused() {
    refused("echo $'\\'' ${{ inputs.v }} '", "only some shells");
    refused("echo $[1] ${{ inputs.v }}", "only some shells");
    refused("echo $(case a in a) echo ;; esac) ${{ inputs.v }}", "case");
    refused("echo \"${X:-'}\" ${{ inputs.v }} '", "quoted `${ }`");
    refused("echo $((echo \"))\" ) | cat) ${{ inputs.v }}", "((");
    refused("echo '${{ inputs.v }}", "never closed");
}

#[test]
fn after_a_region_that_has_ended_references_are_accepted_again() {
    becomes("x=$(date); echo ${{ inputs.v }}", r#"x=$(date); echo "${AMPHI_V1}""#);
    becomes("echo \"$(date +\"%s)\") ${{ inputs.v }}\"", "echo \"$(date +\"%s)\") ${AMPHI_V1}\"");
    becomes("x=$((1 + (2))) ; echo ${{ inputs.v }}", r#"x=$((1 + (2))) ; echo "${AMPHI_V1}""#);
    becomes("cat <<EOF\n'\nEOF\necho ${{ inputs.v }}", "cat <<EOF\n'\nEOF\necho \"${AMPHI_V1}\"");
    becomes("echo ${#X} ${X%\\}} ${{ inputs.v }}", r#"echo ${#X} ${X%\}} "${AMPHI_V1}""#);
    becomes("echo a#b ' # ' ${{ inputs.v }}", r#"echo a#b ' # ' "${AMPHI_V1}""#);
    becomes("echo \\' ${{ inputs.v }}", r#"echo \' "${AMPHI_V1}""#);
    becomes("(cd x && echo ${{ inputs.v }})", r#"(cd x && echo "${AMPHI_V1}")"#);
    becomes("case a in a) echo ${{ inputs.v }};; esac", r#"case a in a) echo "${AMPHI_V1}";; esac"#);
}

#[test]
fn a_value_that_goes_to_another_shell_is_warned_about() {
    for run in ["sh -c 'echo ${{ inputs.v }}'", "eval echo ${{ inputs.v }}", "/bin/bash -ec \"x ${{ inputs.v }}\""] {
        let compiled = compiled(run);
        assert_eq!(compiled.problems, vec![]);
        assert_eq!(compiled.warnings.iter().map(|w| w.code).collect::<Vec<_>>(), [ErrorCode::RunUnsafeSubstitution], "{run}");
    }
    assert_eq!(compiled("make -c ${{ inputs.v }}; echo evaluation").warnings, vec![]);
}

const HOSTILE: [&str; 16] = [
    "$(touch x)",
    "`touch x`",
    "; touch x",
    "a b\tc",
    "\"; touch x; \"",
    "'; touch x; '",
    "'\"'\"'",
    "* ? [a-z]",
    "line\nbreak\n",
    "$HOME ${PATH} $((1+1))",
    "\\",
    "& touch x &",
    "> x",
    "-n -e --",
    "${{ inputs.w }}",
    "#~!{a,b}",
];

/// What `/bin/sh` makes of the script: its arguments, NUL-separated, and nothing else in its folder.
fn words_of(script: &Script, value: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("show() {{ for w; do printf '%s\\000' \"$w\"; done; }}\n{}", script.text)).current_dir(folder.path());
    command.env_clear().env("PATH", "/usr/bin:/bin").envs(script.variables.keys().map(|name| (name, value)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}: {}", script.text, String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a value was run: {value:?} in {}", script.text);
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

#[test]
fn no_value_is_ever_more_than_one_word_of_data() {
    let places = [
        ("show ${{ inputs.v }}", "", ""),
        ("show a${{ inputs.v }}b", "a", "b"),
        ("show \"a ${{ inputs.v }} b\"", "a ", " b"),
        ("show 'a ${{ inputs.v }} b'", "a ", " b"),
        ("show 'it'\\''s ${{ inputs.v }}'", "it's ", ""),
        ("x=${{ inputs.v }}; show \"$x\"", "", ""),
        ("# ${{ inputs.v }}\nshow ${{ inputs.v }} # ${{ inputs.v }} '", "", ""),
        ("cat <<'E' >/dev/null\n'\nE\nshow ${{ inputs.v }}", "", ""),
        ("y=$(echo \"a)\" # '\n); show ${{ inputs.v }}", "", ""),
        ("if true; then (show \"${{ inputs.v }}\"); fi", "", ""),
    ];
    for (run, before, after) in places {
        let script = script(run);
        for value in HOSTILE {
            assert_eq!(words_of(&script, value), [format!("{before}{value}{after}")], "{run}");
        }
    }
}

fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "show ",
        "${{ inputs.v }}",
        "'",
        "\"",
        "\\",
        " ",
        "\n",
        "$",
        "(",
        ")",
        "{",
        "}",
        "`",
        "#",
        "<<E",
        "E\n",
        "a",
        ";",
        "$((",
        "))",
        "${x",
        "case a in a) ",
        "esac",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_accepted_text_lets_a_value_run(parts in prop::collection::vec(fragment(), 1..14)) {
        let run = parts.concat();
        let compiled = compiled(&run);
        if let Some(spec) = compiled.spec {
            let Work::Run(script) = &spec.tasks[0].work else { panic!("a run text became a tool") };
            let folder = tempfile::tempdir().unwrap();
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(&script.text).current_dir(folder.path());
            let value = "'; touch x; ' \"; touch x; \" $(touch x) `touch x` ; touch x\n touch x";
            command.env_clear().env("PATH", "/usr/bin:/bin").envs(script.variables.keys().map(|name| (name, value)));
            command.stdin(std::process::Stdio::null());
            command.output().unwrap();
            prop_assert!(!folder.path().join("x").exists(), "a value was run by {:?}", script.text);
        }
    }
}
