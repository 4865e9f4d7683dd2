//! Laws of `amphi up`, tried on a real nats-server with a shell script in the place of the node.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use amphi_adapters::nats::managed::{DataLock, process_start_time};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{UpOptions, run};

/// Generous: the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(30);
/// Tells this test binary, started again, that it is `up`: the folder to run in.
const ROLE: &str = "AMPHI_TEST_UP_FOLDER";

/// A node that keeps its spec, says that it is ready, and ends with its standard input or a TERM.
const NODE: &str = "#!/bin/sh\nread -r spec\nprintf '%s\\n' \"$spec\" >> \"$(dirname \"$0\")/specs\"\necho talk >&2\necho '{\"ready\":{\"http\":null}}'\nexec cat >/dev/null\n";
/// A node that never ends by itself, whatever it is told.
const STUBBORN: &str = "#!/bin/sh\ntrap '' TERM\nread -r spec\necho '{\"ready\":{}}'\nwhile :; do sleep 1; done\n";
/// A node that refuses its options.
const REFUSING: &str = "#!/bin/sh\necho 'the configuration is wrong' >&2\nexit 2\n";

/// `up` in a process of its own.
struct Up {
    process: Child,
    folder: TempDir,
}

impl Up {
    fn start(node: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), node)
    }

    fn start_in(folder: TempDir, node: &str) -> Self {
        let script = folder.path().join("node.sh");
        std::fs::write(&script, node).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
        let process = spawn(folder.path());
        Self { process, folder }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The ready object, once `wanted` holds for it.
    fn ready_when(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(|| {
            let value: Value = serde_json::from_slice(&std::fs::read(self.data().join("ready.json")).ok()?).ok()?;
            wanted(&value).then_some(value)
        })
    }

    fn ready(&self) -> Value {
        self.ready_when(|_| true)
    }

    fn signal(&self, signal: Signal) {
        send(self.process.id(), signal);
    }

    fn exit_code(&mut self) -> Option<i32> {
        eventually(|| self.process.try_wait().unwrap()).code()
    }

    fn output(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Runs [`the_process_that_is_up`] in this test binary.
fn spawn(folder: &Path) -> Child {
    let file = |name: &str| std::fs::File::create(folder.join(name)).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(
            ["--exact", concat!(module_path!(), "::the_process_that_is_up"), "--nocapture"]
                .map(|a| a.split_once("::").map_or(a, |(_, path)| path)),
        )
        .env(ROLE, folder)
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .spawn()
        .unwrap()
}

/// Not a law by itself: what the other tests start. Does nothing when it is run as a test.
#[test]
fn the_process_that_is_up() {
    let Some(folder) = std::env::var_os(ROLE).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let options = UpOptions {
        nodes: 2,
        data: folder.join("data"),
        ready_file: Some(folder.join("ready-file")),
        tools: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools")),
        program: Some(folder.join("node.sh")),
        no_restart: folder.join("no-restart").exists(),
        ..UpOptions::default()
    };
    let code = runtime.block_on(run(options));
    std::process::exit(i32::from(code));
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "still not so at the deadline");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn gone(pid: u32) {
    eventually(|| process_start_time(pid).is_none().then_some(()));
}

fn pid_of(ready: &Value, node: usize) -> u32 {
    u32::try_from(ready["nodes"][node]["pid"].as_u64().unwrap()).unwrap()
}

fn nats_pid(ready: &Value) -> u32 {
    u32::try_from(ready["nats_pid"].as_u64().unwrap()).unwrap()
}

#[test]
fn up_says_once_that_it_is_ready_and_ends_in_order_on_term() {
    let mut up = Up::start(NODE);
    let ready = up.ready();
    assert_eq!(ready["nodes"][0]["id"], "node-1");
    assert_eq!(ready["nodes"][1]["id"], "node-2");
    assert_eq!(ready["http"], Value::Null);
    let line = eventually(|| up.output("stdout").lines().find_map(|l| l.split_once("ready ").map(|(_, json)| json.to_owned())));
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), ready);
    assert_eq!(serde_json::from_str::<Value>(&up.output("ready-file")).unwrap(), ready);
    for file in [up.data().join("ready.json"), up.folder.path().join("ready-file"), up.data().join("node-1/log")] {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    client.block_on(amphi_adapters::nats::connect(ready["nats"].as_str().unwrap(), "test")).unwrap();

    up.signal(Signal::SIGTERM);
    assert_eq!(up.exit_code(), Some(0), "{}", up.output("stderr"));
    for pid in [pid_of(&ready, 0), pid_of(&ready, 1), nats_pid(&ready)] {
        assert_eq!(process_start_time(pid), None, "{pid} ended before up did");
    }
    assert!(!up.data().join("ready.json").exists());
    assert_eq!(up.output("stdout").matches("ready {").count(), 1);
}

#[test]
fn each_node_gets_its_own_spec_over_a_pipe_and_no_credentials_on_its_command_line() {
    let up = Up::start(NODE);
    let ready = up.ready();
    let specs: Vec<Value> = up.output("specs").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let one = specs.iter().find(|s| s["node"] == "node-1").unwrap();
    let two = specs.iter().find(|s| s["node"] == "node-2").unwrap();
    // Each node logs in to the same server as a user of its own, on both sides: who has one's credentials is not the other.
    let address = |url: &Value| url.as_str().unwrap().split('@').nth(1).unwrap().to_owned();
    let urls = [&ready["nats"], &one["nats"], &one["edge"], &two["nats"], &two["edge"]];
    assert!(urls.iter().all(|url| address(url) == address(&ready["nats"])), "one server");
    let user = |url: &Value| url.as_str().unwrap().split(['/', ':', '@']).nth(3).unwrap().to_owned();
    assert_eq!(urls.map(user), ["admin", "node-1", "node-1.edge", "node-2", "node-2.edge"]);
    assert_eq!((&one["seat"], &two["seat"]), (&Value::Bool(true), &Value::Bool(true)), "both stand by");
    assert_eq!(one["cluster"], two["cluster"]);
    assert_ne!(one["data"], two["data"]);
    let password = |url: &Value| url.as_str().unwrap().split(['/', '@']).nth(2).unwrap().split(':').nth(1).unwrap().to_owned();
    let passwords = [&ready["nats"], &one["nats"], &two["nats"]].map(password);
    assert!(passwords[0] != passwords[1] && passwords[1] != passwords[2]);
    let shown = |text: &str| passwords.iter().any(|password| text.contains(password));
    for pid in [pid_of(&ready, 0), nats_pid(&ready), up.process.id()] {
        let line = String::from_utf8(std::fs::read(format!("/proc/{pid}/cmdline")).unwrap()).unwrap();
        let environment = String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap()).into_owned();
        assert!(!shown(&line) && !shown(&environment));
    }
    assert!(!shown(&up.output("stderr")));
}

#[test]
fn a_killed_node_is_started_again_and_the_ready_file_names_the_new_process() {
    let up = Up::start(NODE);
    let before = pid_of(&up.ready(), 0);
    send(before, Signal::SIGKILL);
    let after = up.ready_when(|ready| pid_of(ready, 0) != before);
    assert!(process_start_time(pid_of(&after, 0)).is_some());
    assert_eq!(pid_of(&after, 1), pid_of(&up.ready(), 1));
}

#[test]
fn a_killed_server_is_started_again_and_the_ready_file_names_the_new_process() {
    let up = Up::start(NODE);
    let before = up.ready();
    send(nats_pid(&before), Signal::SIGKILL);
    let after = up.ready_when(|ready| nats_pid(ready) != nats_pid(&before));
    assert_eq!(after["nats"], before["nats"], "same port, same credentials");
}

#[test]
fn when_up_is_killed_everything_ends_and_another_up_starts_at_once_on_the_same_data() {
    let mut up = Up::start(NODE);
    let before = up.ready();
    let killed = Instant::now();
    up.signal(Signal::SIGKILL);
    up.process.wait().unwrap();
    let again = spawn(up.folder.path());
    up.process = again;
    for pid in [pid_of(&before, 0), pid_of(&before, 1), nats_pid(&before)] {
        gone(pid);
    }
    println!("all gone {:?} after the kill", killed.elapsed());
    let after = up.ready_when(|ready| nats_pid(ready) != nats_pid(&before));
    assert_eq!(after["nats"], before["nats"]);
}

#[test]
fn a_second_up_on_the_same_data_exits_5_and_names_the_holder() {
    let up = Up::start(NODE);
    up.ready();
    let other = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(up.data(), other.path().join("data")).unwrap();
    let mut second = Up::start_in(other, NODE);
    assert_eq!(second.exit_code(), Some(5));
    assert!(second.output("stderr").contains(&format!("in use by process {}", up.process.id())), "{}", second.output("stderr"));
    up.ready();
}

#[test]
fn a_second_signal_ends_at_once_what_does_not_end_by_itself() {
    let mut up = Up::start(STUBBORN);
    let ready = up.ready();
    up.signal(Signal::SIGTERM);
    eventually(|| up.output("stderr").contains("stopping").then_some(()));
    assert!(process_start_time(pid_of(&ready, 0)).is_some(), "it may still finish its work");
    up.signal(Signal::SIGINT);
    assert_eq!(up.exit_code(), Some(130));
    for pid in [pid_of(&ready, 0), pid_of(&ready, 1), nats_pid(&ready)] {
        gone(pid);
    }
}

#[test]
fn a_node_that_refuses_its_options_ends_up_with_2_and_its_words() {
    let mut up = Up::start(REFUSING);
    assert_eq!(up.exit_code(), Some(2));
    assert!(up.output("stderr").contains("the configuration is wrong"), "{}", up.output("stderr"));
    assert!(!up.data().join("ready.json").exists());
    DataLock::acquire(&up.data()).expect("the lock is free");
}

#[test]
fn with_no_restart_a_dead_node_stays_dead_and_the_rest_runs_on() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("no-restart"), "").unwrap();
    let mut up = Up::start_in(folder, NODE);
    let ready = up.ready();
    for node in [0, 1] {
        send(pid_of(&ready, node), Signal::SIGKILL);
    }
    eventually(|| (up.output("stderr").matches(" ended (signal: 9").count() == 2).then_some(()));
    assert!(process_start_time(nats_pid(&ready)).is_some());
    assert!(up.process.try_wait().unwrap().is_none());
    up.signal(Signal::SIGTERM);
    assert_eq!(up.exit_code(), Some(0));
    assert_eq!(up.output("specs").lines().count(), 2, "none was started again");
}
