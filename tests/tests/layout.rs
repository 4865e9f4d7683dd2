//! The layers of the house, compared with what cargo says: a layer names only lower ones, siblings never name each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The layer table of the architecture: crate, folder, layer. Crates of one layer are siblings.
const LAYERS: [(&str, &str, u32); 10] = [
    ("amphi-protocol", "protocol", 0),
    ("amphi-coordination", "runtime/coordination", 1),
    ("amphi-ports", "runtime/ports", 1),
    ("amphi-verify", "runtime/verify", 1),
    ("amphi-adapters", "runtime/adapters", 2),
    ("amphi-agents", "agents", 2),
    ("amphi-supervisors", "supervisors", 3),
    ("amphi-config", "config", 4),
    ("amphi-node", "runtime/node", 5),
    ("amphi-tests", "tests", 6),
];

/// What the core may use beside the protocol: nothing that waits, looks at a clock, draws a number or writes a log.
const CORE_MAY_USE: [&str; 5] = ["amphi-protocol", "serde", "serde_json", "sha2", "thiserror"];

/// What must not reach the core or the checker by any way.
const PURE_MUST_NOT_REACH: [&str; 10] =
    ["tokio", "futures", "async-nats", "tracing", "log", "rand", "getrandom", "ractor", "metrics", "amphi-ports"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).current_dir(root()).args(arguments).output().expect("cargo runs this test, so it runs");
    assert!(output.status.success(), "cargo {arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// The workspace's packages as cargo sees them.
fn packages() -> Vec<Value> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps", "--offline"])).expect("metadata is JSON");
    metadata["packages"].as_array().expect("metadata lists packages").clone()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| panic!("cargo metadata names `{field}`"))
}

#[test]
fn every_crate_of_the_workspace_has_its_place_in_the_layer_table() {
    let expected: BTreeMap<String, String> = LAYERS.iter().map(|(name, folder, _)| ((*name).to_owned(), (*folder).to_owned())).collect();
    let folder = |package: &Value| {
        let manifest = Path::new(text(package, "manifest_path")).parent().expect("a manifest lies in a folder").to_owned();
        let inside = manifest.strip_prefix(root()).expect("a member lies in the repository");
        (text(package, "name").to_owned(), inside.to_string_lossy().into_owned())
    };
    assert_eq!(packages().iter().map(folder).collect::<BTreeMap<_, _>>(), expected);
}

#[test]
fn a_layer_names_only_lower_layers() {
    let layers: BTreeMap<&str, u32> = LAYERS.iter().map(|(name, _, layer)| (*name, *layer)).collect();
    let mut edges = 0;
    for package in packages() {
        let name = text(&package, "name");
        for dependency in package["dependencies"].as_array().expect("metadata lists dependencies") {
            let Some(lower) = layers.get(text(dependency, "name")) else { continue };
            edges += 1;
            assert!(*lower < layers[name], "{name} (L{}) names {} (L{lower})", layers[name], text(dependency, "name"));
        }
    }
    assert!(edges > LAYERS.len(), "only {edges} dependencies between members were seen: the test looks at nothing");
}

#[test]
fn the_core_depends_on_the_protocol_and_on_nothing_that_touches_the_world() {
    let packages = packages();
    let core = packages.iter().find(|package| text(package, "name") == "amphi-coordination").expect("the core is a member");
    for dependency in core["dependencies"].as_array().expect("metadata lists dependencies") {
        let tests_only = dependency["kind"] == "dev";
        assert!(tests_only || CORE_MAY_USE.contains(&text(dependency, "name")), "the core uses {}", text(dependency, "name"));
    }
}

#[test]
fn nothing_that_waits_logs_or_draws_reaches_the_pure_crates() {
    for pure in ["amphi-protocol", "amphi-coordination", "amphi-verify"] {
        let tree = cargo(&["tree", "--offline", "-p", pure, "-e", "normal", "--prefix", "none", "--format", "{p}"]);
        let reached: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(reached.contains("serde"), "{pure}: cargo tree was not understood");
        let forbidden: Vec<_> = PURE_MUST_NOT_REACH.iter().filter(|name| reached.contains(**name)).collect();
        assert!(forbidden.is_empty(), "{pure} reaches {forbidden:?}");
    }
}

#[test]
fn the_checker_shares_only_the_protocol_with_the_core() {
    let tree = cargo(&["tree", "--offline", "-p", "amphi-verify", "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    let ours: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with("amphi-")).collect();
    assert_eq!(ours, BTreeSet::from(["amphi-protocol", "amphi-verify"]));
}
