//! What a `run` task sees and what comes out of it.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::collections::BTreeMap;

use amphi_ports::{JobNews, OutputSource};
use amphi_protocol::document::{OutputType, Reference, Script, Work, Workspace};
use amphi_protocol::journal::{Artifact, Outcome};
use amphi_protocol::node::Job;
use serde_json::json;
use support::{Bench, job, shell};

#[tokio::test]
async fn a_command_that_ends_with_zero_has_succeeded_and_its_output_is_kept() {
    let bench = Bench::new();
    let mut running = bench.start(shell("echo out; echo err >&2; echo $PPID >/dev/null"));
    let pid = running.started().await;
    let end = running.end().await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!(end.exit_code, Some(0));
    assert!(pid > 0);
    assert_eq!(bench.memory.text(OutputSource::Out), "out\n");
    assert_eq!(bench.memory.text(OutputSource::Err), "err\n");
}

#[tokio::test]
async fn the_exit_code_and_the_last_of_standard_error_come_out_of_a_failure() {
    let bench = Bench::new();
    let end = bench.run(shell("echo 'no such file' >&2; exit 7")).await;
    assert_eq!((end.outcome, end.exit_code), (Outcome::Exit, Some(7)));
    assert_eq!(end.error.as_deref(), Some("no such file"));
    let end = bench.run(shell("kill -KILL $$")).await;
    assert_eq!((end.outcome, end.exit_code), (Outcome::Exit, Some(137)));
    let end = bench.run(shell("kill -TERM $$")).await;
    assert_eq!((end.outcome, end.exit_code), (Outcome::Exit, Some(143)));
    let end = bench.run(shell("no-such-command-anywhere")).await;
    assert_eq!((end.outcome, end.exit_code), (Outcome::Exit, Some(127)));
}

#[tokio::test]
async fn the_pid_that_is_told_is_the_shells_own() {
    let bench = Bench::new();
    let mut running = bench.start(shell("echo $$"));
    let pid = running.started().await;
    running.end().await;
    assert_eq!(bench.memory.text(OutputSource::Out).trim(), pid.to_string());
}

#[tokio::test]
async fn the_environment_is_clean_and_complete() {
    let bench = Bench::new();
    let mut task = shell(
        "env | cut -d= -f1 | sort; echo \"$AMPHI_EPIC $AMPHI_TASK $AMPHI_RUN $AMPHI_ATTEMPT $AMPHI_IDEMPOTENCY_KEY $AMPHI_FENCING_TOKEN $HOME $MODE\"; test -d \"$TMPDIR\" && test -d \"$AMPHI_ARTIFACTS\" && test -d \"$AMPHI_INPUTS\" && test -f \"$AMPHI_OUTPUT\" && test -f \"$AMPHI_PROGRESS\" && echo all there",
    );
    task.env.insert("MODE".to_owned(), "as ${{ inputs.mode }}".to_owned());
    task.values.insert("inputs.mode".to_owned(), "fast; echo hacked".to_owned());
    let end = bench.run(task).await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    let text = bench.memory.text(OutputSource::Out);
    let mut names: Vec<&str> = text.lines().take_while(|line| !line.contains(' ')).collect();
    names.retain(|name| !matches!(*name, "PWD" | "OLDPWD" | "SHLVL" | "_"));
    assert_eq!(
        names,
        [
            "AMPHI_ARTIFACTS",
            "AMPHI_ATTEMPT",
            "AMPHI_EPIC",
            "AMPHI_FENCING_TOKEN",
            "AMPHI_GUARD",
            "AMPHI_IDEMPOTENCY_KEY",
            "AMPHI_INPUTS",
            "AMPHI_OUTPUT",
            "AMPHI_PROGRESS",
            "AMPHI_RUN",
            "AMPHI_TASK",
            "HOME",
            "LANG",
            "MODE",
            "PATH",
            "TMPDIR"
        ]
    );
    assert!(text.contains("release-1 t[0] 2 3 epic/t/2 77 /home/somebody as fast; echo hacked"), "{text}");
    assert!(text.contains("all there"), "{text}");
}

#[tokio::test]
async fn a_hostile_value_stays_one_word_of_data() {
    let bench = Bench::new();
    let value = "$(touch pwned) `touch pwned` '; touch pwned; \" && touch pwned\n#";
    let variables = BTreeMap::from([("AMPHI_V1".to_owned(), Reference::Input(vec!["name".to_owned()]))]);
    let text = "printf '%s' \"${AMPHI_V1}\"; ls >&2".to_owned();
    let mut task = job(Work::Run(Script { text, variables }));
    task.values.insert("inputs.name".to_owned(), value.to_owned());
    let end = bench.run(task).await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!(bench.memory.text(OutputSource::Out), value);
    assert_eq!(bench.memory.text(OutputSource::Err), "");
}

#[tokio::test]
async fn a_value_that_is_missing_or_impossible_is_an_error_and_nothing_runs() {
    let bench = Bench::new();
    let variables = BTreeMap::from([("V".to_owned(), Reference::Secret("TOKEN".to_owned()))]);
    let end = bench.run(job(Work::Run(Script { text: "echo ran".to_owned(), variables }))).await;
    assert_eq!(end.outcome, Outcome::Exit);
    assert_eq!(end.error.as_deref(), Some("the secret `TOKEN` is not configured on this node"));
    for (name, value) in [("A=B", "x"), ("", "x"), ("1A", "x"), ("NUL", "a\0b"), ("GONE", "${{ inputs.gone }}")] {
        let mut task = shell("echo ran");
        task.env.insert(name.to_owned(), value.to_owned());
        assert_eq!(bench.run(task).await.outcome, Outcome::Exit, "{name}");
    }
    assert_eq!(bench.memory.text(OutputSource::Out), "");
}

#[tokio::test]
async fn secrets_reach_the_task_and_nothing_else() {
    let bench = Bench::with_secrets(&[("TOKEN", "s3cr3t-value"), ("EMPTY", "")]);
    let variables = BTreeMap::from([("V".to_owned(), Reference::Secret("TOKEN".to_owned()))]);
    let text =
        "echo \"${#V} $V\"; printf s3cr; sleep 0.3; printf '3t-value and s3cr'; echo \"got=$V\" >> \"$AMPHI_OUTPUT\"; echo \"bad $V\" >&2";
    let end = bench.run(job(Work::Run(Script { text: text.to_owned(), variables: variables.clone() }))).await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!(bench.memory.text(OutputSource::Out), "12 ***\n*** and s3cr");
    assert_eq!(end.outputs["got"], json!("***"));
    let end = bench.run(job(Work::Run(Script { text: "echo \"bad $V\" >&2; false".to_owned(), variables }))).await;
    assert_eq!(end.error.as_deref(), Some("bad ***"));
}

#[tokio::test]
async fn outputs_have_their_types_or_the_attempt_ends_as_output() {
    let bench = Bench::new();
    let declared =
        BTreeMap::from([("count".to_owned(), OutputType::Integer), ("tags".to_owned(), OutputType::List(Box::new(OutputType::String)))]);
    let run = |text: &str| {
        let mut task = shell(text);
        task.outputs = declared.clone();
        bench.run(task)
    };
    let end = run("echo count=1 >> $AMPHI_OUTPUT; echo 'count=42' >> $AMPHI_OUTPUT; echo 'tags=[\"a\",\"b=c\"]' >> $AMPHI_OUTPUT").await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!((&end.outputs["count"], &end.outputs["tags"]), (&json!(42), &json!(["a", "b=c"])));
    for wrong in [
        "echo count=many > $AMPHI_OUTPUT; echo 'tags=[]' >> $AMPHI_OUTPUT",
        "echo count=1 > $AMPHI_OUTPUT",
        "echo 'no equals sign' > $AMPHI_OUTPUT",
        "echo '1x=2' > $AMPHI_OUTPUT",
        "head -c 70000 /dev/zero | tr '\\0' a | sed 's/^/count=/' > $AMPHI_OUTPUT",
        "head -c 1100000 /dev/zero > $AMPHI_OUTPUT",
        "printf 'count=\\377' > $AMPHI_OUTPUT",
        "rm $AMPHI_OUTPUT; mkfifo $AMPHI_OUTPUT",
        "rm $AMPHI_OUTPUT; ln -s /etc/passwd $AMPHI_OUTPUT",
    ] {
        let end = run(wrong).await;
        assert_eq!(end.outcome, Outcome::Output, "{wrong}: {end:?}");
        assert!(end.error.is_some() && end.outputs.is_empty(), "{wrong}");
    }
}

#[tokio::test]
async fn artifacts_are_kept_by_their_hash_and_links_are_not_followed() {
    let bench = Bench::new();
    let text = "mkdir -p $AMPHI_ARTIFACTS/a/b; echo hello > $AMPHI_ARTIFACTS/a/b/c.txt; ln -s /etc/passwd $AMPHI_ARTIFACTS/link; ln -s / $AMPHI_ARTIFACTS/root; mkfifo $AMPHI_ARTIFACTS/pipe";
    let end = bench.run(shell(text)).await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!(end.artifacts.len(), 1);
    let artifact = &end.artifacts[0];
    assert_eq!((artifact.path.as_str(), artifact.size), ("a/b/c.txt", 6));
    assert_eq!(artifact.sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    assert_eq!(&bench.memory.objects.lock().unwrap()[&artifact.sha256][..], b"hello\n");
    let end = bench.run(shell("cd $AMPHI_ARTIFACTS; i=0; while [ $i -lt 1001 ]; do : > f$i; i=$((i+1)); done")).await;
    assert_eq!(end.outcome, Outcome::Output);
    let end = bench.run(shell("truncate -s 300M $AMPHI_ARTIFACTS/large")).await;
    assert_eq!(end.outcome, Outcome::Output);
}

#[tokio::test]
async fn artifacts_of_what_a_task_needs_lie_under_its_inputs_and_nowhere_else() {
    let bench = Bench::new();
    let made = bench.run(shell("mkdir $AMPHI_ARTIFACTS/a; printf one > \"$AMPHI_ARTIFACTS/a/b c\"")).await;
    let with = |inputs: BTreeMap<String, Vec<Artifact>>, text: &str| Job { inputs, ..shell(text) };
    let text = "cd $AMPHI_INPUTS; find . -type f | sort; cat 't[1]/a/b c'";
    let end =
        bench.run(with([("s", &made), ("t[1]", &made)].map(|(name, end)| (name.to_owned(), end.artifacts.clone())).into(), text)).await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!(bench.memory.text(OutputSource::Out), "./s/a/b c\n./t[1]/a/b c\none");
    for (path, sha256) in [("../x", &made.artifacts[0].sha256), ("/x", &made.artifacts[0].sha256), ("x", &"0".repeat(64))] {
        let artifact = Artifact { path: path.to_owned(), size: 3, sha256: sha256.clone() };
        let end = bench.run(with([("t".to_owned(), vec![artifact])].into(), "echo never")).await;
        assert_eq!((end.outcome, end.exit_code), (Outcome::Exit, None), "{path}: {end:?}");
    }
}

#[tokio::test]
async fn endless_output_is_cut_with_a_mark_and_slows_nobody_down() {
    let bench = Bench::new();
    let end = bench.run(shell("head -c 20000000 /dev/zero | tr '\\0' x; echo last words >&2; exit 1")).await;
    assert_eq!((end.outcome, end.error.as_deref()), (Outcome::Exit, Some("last words")));
    let text = bench.memory.text(OutputSource::Out) + &bench.memory.text(OutputSource::Err);
    assert!(text.contains(amphi_adapters::process::CUT_MARK));
    assert_eq!(text.len(), amphi_adapters::process::OUTPUT_BYTES_MAX + amphi_adapters::process::CUT_MARK.len());
}

#[tokio::test]
async fn output_that_cannot_be_stored_at_once_is_stored_before_the_end() {
    let bench = Bench::new();
    bench.memory.failures.store(3, std::sync::atomic::Ordering::SeqCst);
    let end = bench.run(shell("echo kept")).await;
    assert_eq!(end.outcome, Outcome::Succeeded);
    assert_eq!(bench.memory.text(OutputSource::Out), "kept\n");
}

#[tokio::test]
async fn a_workspace_path_is_shared_in_place_and_a_private_one_goes_away() {
    let bench = Bench::new();
    let shared = bench.folder.path().join("shared");
    std::fs::create_dir_all(shared.join("sub")).unwrap();
    let mut task = shell("pwd > here; pwd");
    task.workspace = Workspace::Path(shared.to_str().unwrap().to_owned());
    task.workdir = Some("sub".to_owned());
    assert_eq!(bench.run(task).await.outcome, Outcome::Succeeded);
    assert!(shared.join("sub/here").exists());
    let end = bench.run(shell("pwd; ls -A; touch file")).await;
    assert_eq!(end.outcome, Outcome::Succeeded);
    let attempts = bench.data_dir().join("attempts");
    support::wait_until("private folders go away", || std::fs::read_dir(&attempts).unwrap().next().is_none());
}

#[tokio::test]
async fn a_workdir_never_leads_out_of_the_workspace() {
    let bench = Bench::new();
    let shared = bench.folder.path().join("shared");
    std::fs::create_dir_all(&shared).unwrap();
    std::os::unix::fs::symlink("/", shared.join("link")).unwrap();
    std::fs::write(shared.join("file"), "").unwrap();
    for workdir in ["..", "a/../..", "/etc", "link", "link/etc", "file", "not there"] {
        let mut task = shell("echo ran");
        task.workspace = Workspace::Path(shared.to_str().unwrap().to_owned());
        task.workdir = Some(workdir.to_owned());
        let end = bench.run(task).await;
        assert_eq!(end.outcome, Outcome::Exit, "{workdir}: {end:?}");
        assert!(end.error.unwrap().contains("workdir"), "{workdir}");
    }
    for workspace in ["relative", "/not/there"] {
        let mut task = shell("echo ran");
        task.workspace = Workspace::Path(workspace.to_owned());
        assert_eq!(bench.run(task).await.outcome, Outcome::Exit);
    }
    assert_eq!(bench.memory.text(OutputSource::Out), "");
}

#[tokio::test]
async fn progress_output_and_cpu_time_are_signs_of_life_and_silence_is_not() {
    let bench = Bench::new();
    let mut running = bench.start(shell("echo '{\"percent\":40,\"message\":\"half way\"}' >> $AMPHI_PROGRESS; sleep 2.5"));
    running.started().await;
    let mut heard = Vec::new();
    while let Some(news) = running.heard.recv().await {
        heard.push(news);
    }
    let end = running.end().await;
    assert_eq!(end.outcome, Outcome::Succeeded);
    assert!(heard.contains(&JobNews::Progress { percent: Some(40), message: Some("half way".to_owned()) }), "{heard:?}");
    assert!(heard.iter().filter(|news| **news == JobNews::Active).count() <= 1, "a sleeping task is not active: {heard:?}");

    let mut running = bench.start(shell("i=0; while :; do i=$((i+1)); done"));
    running.started().await;
    while running.heard.recv().await.expect("the job runs") != JobNews::Active {}
    running.cancel.cancel();
    assert_eq!(running.end().await.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn a_script_longer_than_an_argument_may_be_runs_too() {
    let bench = Bench::new();
    let text = format!("# {}\necho end of a long script", "x".repeat(300_000));
    let end = bench.run(shell(&text)).await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!(bench.memory.text(OutputSource::Out), "end of a long script\n");
}

#[tokio::test]
async fn standard_input_is_empty_and_no_descriptor_of_the_node_is_left_open() {
    let bench = Bench::new();
    // The fourth is the folder that `ls` reads.
    let end = bench.run(shell("cat; ls /proc/self/fd")).await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!(bench.memory.text(OutputSource::Out), "0\n1\n2\n3\n");
}
