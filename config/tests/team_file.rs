//! The team file from outside: defaults, layers, origins, roles, secrets, and everything that can be wrong.

#![allow(clippy::unwrap_used, reason = "test code outside #[test] functions")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use amphi_config::*;
use amphi_protocol::api::{ErrorCode, Problem};

fn sources(folder: &Path, environment: &[(&str, &str)]) -> Sources {
    Sources { environment: environment.iter().copied().collect(), folder: folder.to_owned(), ..Sources::default() }
}

fn load_text(text: &str) -> Result<Loaded, Vec<Problem>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("amphi.yaml"), text).unwrap();
    load(&sources(folder.path(), &[])).map_err(|error| match error {
        ConfigError::Invalid(problems) => problems,
        other => panic!("{other}"),
    })
}

fn problems(text: &str) -> Vec<Problem> {
    load_text(text).expect_err("it is refused")
}

#[test]
fn without_any_file_the_defaults_hold_and_are_the_ones_in_the_types() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = load(&sources(folder.path(), &[])).unwrap();
    assert_eq!(loaded.team.cluster, ClusterConfig::default());
    assert_eq!(loaded.team.health, HealthConfig::default());
    assert_eq!(loaded.team.limits, LimitsConfig::default());
    assert_eq!((loaded.team.secrets.len(), loaded.warnings.len(), loaded.files.len()), (0, 0, 0));
    assert!(loaded.values.values().all(|value| value.origin == Origin::Default));
    assert_eq!(loaded.team.health.manager_lease(false), Duration::from_secs(3));
    assert_eq!(loaded.team.health.manager_lease(true), Duration::from_secs(15));
}

#[test]
fn the_six_roles_of_s4_ship_with_their_skills() {
    let folder = tempfile::tempdir().unwrap();
    let roles = load(&sources(folder.path(), &[])).unwrap().team.roles;
    let skills = [
        ("BackupKeeper", "cloudflare-r2 pg_dump rclone"),
        ("BuildMaster", "typescript vite webpack"),
        ("DatabaseArchitect", "drizzle kysely postgresql prisma"),
        ("DeployCommander", "cloudflare-api docker ssh"),
        ("MonitoringSentinel", "alerting grafana prometheus"),
        ("TestGuardian", "ava playwright vitest"),
    ];
    let names: Vec<&str> = roles.by_name.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, skills.map(|(name, _)| name));
    for (name, skills) in skills {
        let role = roles.get(name).unwrap();
        assert_eq!(role.skills.join(" "), skills);
        assert_eq!((role.replicas, role.engine), (Replicas::Capacity, RoleEngine::Builtin));
        assert!(!role.responsibilities.is_empty() && !role.tools.is_empty());
    }
    let tools = [
        "backup.restore",
        "backup.snapshot",
        "backup.verify",
        "fail",
        "file.write",
        "git.clone",
        "git.commit",
        "git.tag",
        "http.check",
        "http.post",
        "http.wait",
        "message.send",
        "noop",
        "prom.assert",
        "sleep",
    ];
    assert_eq!(roles.tools().into_iter().collect::<Vec<_>>(), tools);
    assert_eq!(roles.skills_by_role().len(), 6);
}

#[test]
fn the_registry_of_roles_has_exactly_the_files_of_the_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("roles");
    let mut files: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let registry: Vec<String> = DEFAULT_ROLES.iter().map(|(name, _)| format!("{name}.yaml")).collect();
    assert_eq!(files, registry);
}

#[test]
fn a_role_of_the_team_is_laid_over_the_one_that_ships_and_new_ones_are_added() {
    let team = load_text(
        "version: 1\nroles:\n  BuildMaster: { skills: [vite, rust, vite], replicas: 2 }\n  TestGuardian: { replicas: 1..20, restart: { max: 9 } }\n  \
         Coder: { skills: [code], tools: [noop] }\n",
    )
    .unwrap()
    .team;
    let build = team.roles.get("BuildMaster").unwrap();
    assert_eq!((build.skills.join(" ").as_str(), build.replicas), ("rust vite", Replicas::Range { min: 2, max: 2 }));
    assert!(build.responsibilities.contains(&"compile TypeScript".to_owned()), "what the team leaves out stays");
    let test = team.roles.get("TestGuardian").unwrap();
    assert_eq!((test.replicas, test.restart.max, test.restart.within), (Replicas::Range { min: 1, max: 20 }, 9, Duration::from_secs(60)));
    assert_eq!((test.replicas.count(8), test.replicas.bounds(99)), (1, (1, 20)));
    assert_eq!(team.roles.get("Coder").unwrap().skills, ["code"]);
    assert_eq!(team.roles.by_name.len(), 7);
}

#[test]
fn the_higher_layer_wins_value_by_value_and_each_value_knows_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    let user = folder.path().join("user/amphi");
    std::fs::create_dir_all(&user).unwrap();
    std::fs::write(
        user.join("config.yaml"),
        "version: 1\ncluster: { name: user, shards: 2, http: 127.0.0.1:1 }\nhealth: { stuck_after: 9m }\n",
    )
    .unwrap();
    std::fs::write(folder.path().join("amphi.yaml"), "version: 1\ncluster:\n  name: team\n  shards: 3\n").unwrap();
    let xdg = folder.path().join("user");
    let environment = [("XDG_CONFIG_HOME", xdg.to_str().unwrap()), ("AMPHI_CLUSTER_SHARDS", "4"), ("AMPHI_HTTP", "127.0.0.1:2")];
    let mut sources = sources(folder.path(), &environment);
    sources.flags = vec![FlagValue { path: "cluster.http".into(), flag: "--http".into(), value: "127.0.0.1:3".into() }];
    let loaded = load(&sources).unwrap();
    let cluster = &loaded.team.cluster;
    assert_eq!((cluster.name.as_str(), cluster.shards), ("team", 4));
    assert_eq!(cluster.http, Some("127.0.0.1:3".parse().unwrap()));
    assert_eq!(loaded.team.health.stuck_after, Duration::from_secs(540));
    let origin = |path: &str| loaded.values[path].origin.to_string();
    assert_eq!(origin("cluster.http"), "flag --http");
    assert_eq!(origin("cluster.shards"), "environment AMPHI_CLUSTER_SHARDS");
    assert_eq!(origin("cluster.name"), format!("file {}:3", folder.path().join("amphi.yaml").display()));
    assert_eq!(origin("health.stuck_after"), format!("file {}:3", user.join("config.yaml").display()));
    assert_eq!(origin("health.heartbeat"), "default");
    assert_eq!(origin("roles.BuildMaster.skills"), "default");
    assert_eq!(loaded.files.len(), 2);

    sources.file = Some(folder.path().join("missing.yaml"));
    assert!(matches!(load(&sources), Err(ConfigError::Unreadable { .. })), "a file that was named must exist");
}

#[test]
fn all_problems_are_reported_at_once_with_their_place_and_a_hint() {
    let found = problems(
        "version: 2\nclutser: {}\ncluster:\n  shrads: 2\n  durability: powr\n  http: nowhere\n  replicas: 2\nhealth:\n  heartbeat: 5\n  stuck_after: soon\n\
         roles:\n  BuildMaster: { skils: [a], replicas: 5..2 }\n  \"a b\": {}\nsecrets:\n  X: plaintext\n  \"1x\": { env: A }\nlimits: { depth: 0 }\n",
    );
    let place = |line: u32, column: u32, text: &str| {
        let problem = found.iter().find(|problem| (problem.line, problem.column) == (line, column));
        let problem = problem.unwrap_or_else(|| panic!("nothing at {line}:{column} in {found:#?}"));
        assert!(format!("{} {:?}", problem.message, problem.hint).contains(text), "{problem:?} says {text}");
        assert!(problem.file.as_deref().is_some_and(|file| file.ends_with("amphi.yaml")));
        assert_eq!(problem.code, ErrorCode::ConfigInvalid);
    };
    place(1, 10, "must be 1");
    place(2, 1, "did you mean `cluster`?");
    place(4, 3, "did you mean `shards`?");
    place(5, 15, "did you mean `power`?");
    place(6, 9, "127.0.0.1:7766");
    place(7, 13, "must be 1, 3 or 5, not 2");
    place(9, 14, "30s");
    place(10, 16, "`soon` is no duration");
    place(12, 18, "did you mean `skills`?");
    place(12, 40, "min..max");
    place(13, 3, "role");
    place(15, 6, "env: VARIABLE");
    place(16, 3, "secret's name");
    place(17, 18, "from 8 to 256");
    assert_eq!(found.len(), 14, "{found:#?}");
}

#[test]
fn what_this_release_does_not_act_on_is_said_and_not_ignored() {
    let loaded = load_text(
        "version: 1\nmodels: { planner: [] }\ntools: {}\npolicies: []\ntriggers: []\nnotify: {}\nx-mine: anything\nhealth: { on_exhausted: scale_down }\n\
         roles:\n  A: { engine: llm, model: planner }\n  B: { autonomy: observe, concurrency: 3, tools: [http.chek] }\n",
    )
    .unwrap();
    let said: String = loaded.warnings.iter().map(|warning| format!("{}:{} {}\n", warning.line, warning.column, warning.message)).collect();
    for key in
        ["`models`", "`tools`", "`policies`", "`triggers`", "`notify`", "`health.on_exhausted`", "`roles.A.engine`", "`roles.A.model`"]
    {
        assert!(said.contains(&format!("{key} is not acted on by this release")), "{key} in {said}");
    }
    assert!(said.contains("`roles.B.autonomy` is not acted on") && said.contains("`roles.B.concurrency` is not acted on"), "{said}");
    assert!(said.contains("no tool `http.chek` ships"), "{said}");
    assert_eq!(loaded.warnings.len(), 11, "{said}");
    assert!(loaded.team.roles.runnable().all(|(name, _)| name.as_str() != "A"));
}

#[test]
fn a_full_team_file_with_all_sections_is_read() {
    let text = include_str!("full-team.yaml");
    let loaded = load_text(text).unwrap();
    assert_eq!(loaded.team.cluster.nats, NatsTarget::Context("prod".to_owned()));
    assert_eq!((loaded.team.cluster.shards, loaded.team.cluster.replicas), (4, Some(3)));
    assert_eq!(loaded.team.roles.get("DeployCommander").unwrap().restart.strategy, RoleStrategy::RestForOne);
    assert_eq!(loaded.team.health.manager_lease(false), Duration::from_secs(15));
}

#[test]
fn hostile_and_broken_files_are_refused_with_a_place() {
    for (text, needle) in [
        ("version: 1\nversion: 1\n", "version"),
        ("version: 1\ncluster: [\n", ""),
        ("- a\n", "mapping"),
        ("cluster: {}\n", "`version` is missing"),
        ("version: 1\nlimits: { runs: 99999999999999999999999 }\n", "runs"),
        ("version: 1\ncluster: { name: \"UP CASE\" }\n", "cluster.name"),
        ("version: 1\nhealth: { heartbeat: 10s }\n", "three heartbeats"),
        ("version: 1\nsecrets: { X: { env: A, file: b } }\n", "secrets.X"),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|problem| problem.line > 0 && problem.message.contains(needle)), "{text}: {found:#?}");
    }
    let mut bomb = String::from("version: 1\nx-a: &a [1,1,1,1,1,1,1,1,1,1]\n");
    for (level, name) in ('b'..='k').enumerate() {
        let below = char::from(b'a' + level as u8);
        bomb.push_str(&format!("x-{name}: &{name} [{}]\n", vec![format!("*{below}"); 10].join(",")));
    }
    assert!(load_text(&bomb).is_err(), "an alias bomb");
    assert!(load_text(&format!("version: 1\nx-a: {}{}\n", "[".repeat(100_000), "]".repeat(100_000))).is_err(), "deep nesting");
    assert!(load_text(&format!("version: 1\nx-a: \"{}\"\n", "a".repeat(5 * 1024 * 1024))).is_err(), "too large");
}

#[test]
fn a_wrong_variable_is_named_and_a_misspelt_one_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(&sources(folder.path(), &[("AMPHI_CLUSTER_SHARDS", "many")])).unwrap_err();
    let ConfigError::Invalid(problems) = &error else { panic!("{error}") };
    assert!(problems[0].message.starts_with("AMPHI_CLUSTER_SHARDS: "), "{problems:?}");
    assert_eq!(error.to_api().code.exit_code(), 2);
    let loaded = load(&sources(folder.path(), &[("AMPHI_CLUSTER_SHARD", "2"), ("AMPHI_EPIC", "x"), ("AMPHI_FAULTS", "1")])).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert_eq!(loaded.warnings[0].hint.as_deref(), Some("did you mean `AMPHI_CLUSTER_SHARDS`?"));
}

#[test]
fn secrets_come_from_the_node_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
    let text =
        "version: 1\ncluster: { nats: \"nats://user:hunter2@127.0.0.1:4222\" }\nsecrets: { A: { env: TOKEN_A }, B: { file: token } }\n";
    std::fs::write(folder.path().join("amphi.yaml"), text).unwrap();
    let sources = sources(folder.path(), &[("TOKEN_A", "from-env")]);
    let loaded = load(&sources).unwrap();
    let secrets = resolve_secrets(&loaded.team, &sources.environment).unwrap();
    assert_eq!(secrets.get("A").unwrap().expose(), "from-env");
    assert_eq!(secrets.expose_all()["B"], "from-file");
    let everything = format!("{secrets:?} {} {loaded:?} {sources:?}", secrets.get("A").unwrap());
    for secret in ["from-env", "from-file", "hunter2"] {
        assert!(!everything.contains(secret), "{secret} in {everything}");
    }
    assert!(matches!(&loaded.team.cluster.nats, NatsTarget::Url(url) if url.contains("hunter2")), "the node itself can connect");
    std::fs::remove_file(folder.path().join("token")).unwrap();
    let errors = resolve_secrets(&loaded.team, &Environment::default()).unwrap_err();
    assert!(matches!(errors[..], [SecretError::NotSet { .. }, SecretError::Unreadable { .. }]), "all at once: {errors:?}");
}

#[test]
fn a_higher_layer_replaces_the_source_of_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let user = folder.path().join("user/amphi");
    std::fs::create_dir_all(&user).unwrap();
    std::fs::write(user.join("config.yaml"), "version: 1\nsecrets: { A: { file: token }, B: { env: B } }\n").unwrap();
    std::fs::write(folder.path().join("amphi.yaml"), "version: 1\nsecrets: { A: { env: A } }\n").unwrap();
    let xdg = folder.path().join("user");
    let team = load(&sources(folder.path(), &[("XDG_CONFIG_HOME", xdg.to_str().unwrap())])).unwrap().team;
    assert_eq!(team.secrets["A"], SecretSource::Environment { variable: "A".to_owned() });
    assert_eq!(team.secrets["B"], SecretSource::Environment { variable: "B".to_owned() });
}

#[test]
fn folders_follow_xdg() {
    let environment = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Environment>();
    assert_eq!(data_folder(&environment(&[("XDG_DATA_HOME", "/d"), ("HOME", "/h")])), Some(PathBuf::from("/d/amphi")));
    assert_eq!(data_folder(&environment(&[("HOME", "/h")])), Some(PathBuf::from("/h/.local/share/amphi")));
    assert_eq!(data_folder(&environment(&[("XDG_DATA_HOME", "relative"), ("HOME", "/h")])), Some(PathBuf::from("/h/.local/share/amphi")));
    assert_eq!((data_folder(&environment(&[])), config_folder(&environment(&[("HOME", "/h")]))), (None, Some("/h/.config/amphi".into())));
}

#[test]
fn durations_are_read_as_they_are_written() {
    for (text, ms) in [("500ms", 500), ("2s", 2000), ("1h30m", 5_400_000), ("90d", 7_776_000_000), ("1m1s1ms", 61_001)] {
        let duration = Duration::from_millis(ms);
        assert_eq!(parse_duration(text), Ok(duration), "{text}");
        assert_eq!(show_duration(duration), text);
    }
    for text in ["", "5", "s", "5 s", "-1s", "1.5s", "5y", "99999999999999999999s", "18446744073709551615d", "ü"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}
