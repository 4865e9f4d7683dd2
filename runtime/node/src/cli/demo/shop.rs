//! The shop as its customers and its operators see it: over HTTP, and by its own ops scripts.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use super::stage::broken;
use crate::cli::failure::Failure;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an ops script may take.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);
/// The python that the shop needs, at least.
const PYTHON: &str = "import sys, sqlite3; sys.exit(0 if sys.version_info >= (3, 9) else 'it is ' + sys.version.split()[0])";

/// Checks for what the shop is written in.
pub(super) async fn check_python() -> Result<(), Failure> {
    let needed = |why: String| {
        Failure::usage(format!("the demo's sample application needs python3 3.9 or newer with its sqlite3 module: {why}"))
            .hint("install python3 (for instance `apt-get install python3`) and try again")
    };
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON]).stdin(Stdio::null()).kill_on_drop(true);
    let ended = match timeout(SCRIPT_TIMEOUT, command.output()).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => return Err(needed(format!("`python3` on PATH: {error}"))),
        Err(_) => return Err(needed("`python3` does not answer".to_owned())),
    };
    if ended.status.success() { Ok(()) } else { Err(needed(last_line(&ended.stderr))) }
}

fn last_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().lines().last().unwrap_or_default().to_owned()
}

/// What production's database holds, by SQL.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Database {
    pub(super) integrity: String,
    pub(super) schema: u64,
    pub(super) columns: Vec<String>,
    /// Keys of all orders, in the order of their numbers.
    pub(super) keys: Vec<String>,
    /// A checksum per order, the same way.
    pub(super) lines: Vec<String>,
    /// Orders whose total is not what it must be; none before release 2.
    pub(super) totals_wrong: Option<u64>,
    /// Lines of the order log.
    pub(super) logged: usize,
}

/// A running shop.
#[derive(Debug, Clone)]
pub(super) struct Shop {
    folder: PathBuf,
    http: reqwest::Client,
    pub(super) api: String,
    pub(super) web: String,
}

impl Shop {
    /// `host` is what the service host says about itself.
    pub(super) fn new(folder: PathBuf, host: &Value) -> Result<Self, Failure> {
        let http = reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build();
        let http = http.map_err(|error| broken(format!("no HTTP client: {error}")))?;
        let url = |name: &str| host[name].as_str().map(str::to_owned).ok_or_else(|| broken(format!("the service host names no {name}")));
        Ok(Self { folder, http, api: url("api")?, web: url("web")? })
    }

    /// Status and text of a page; status 0 and why if there is no answer.
    pub(super) async fn get(&self, url: &str) -> (u16, String) {
        answer(self.http.get(url)).await
    }

    /// The same of an answer that is JSON; null if it is not.
    pub(super) async fn get_json(&self, url: &str) -> (u16, Value) {
        let (status, text) = self.get(url).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Places an order: `(200 or 201, which release took it)` if it was accepted.
    pub(super) async fn order(&self, key: &str, customer: &str, product: u64, quantity: u64) -> (u16, String) {
        let order = json!({ "key": key, "customer": customer, "product_id": product, "quantity": quantity });
        let (status, text) = answer(self.http.post(format!("{}/orders", self.api)).body(order.to_string())).await;
        let told: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        (status, told["version"].as_str().map_or(text, str::to_owned))
    }

    /// Runs one of the shop's ops scripts; gives what it wrote.
    pub(super) async fn ops(&self, script: &str, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new("python3");
        command.arg(format!("ops/{script}")).args(arguments).current_dir(&self.folder).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        let ended = match timeout(SCRIPT_TIMEOUT, command.output()).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => return Err(broken(format!("ops/{script} cannot be run: {error}"))),
            Err(_) => return Err(broken(format!("ops/{script} did not end within {} s", SCRIPT_TIMEOUT.as_secs()))),
        };
        if !ended.status.success() {
            return Err(broken(format!("ops/{script} failed: {}", last_line(&ended.stderr))));
        }
        Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
    }

    /// Looks into the database.
    pub(super) async fn database(&self) -> Result<Database, Failure> {
        let told = self.ops("inspect.py", &[]).await?;
        serde_json::from_str(&told).map_err(|error| broken(format!("ops/inspect.py: {error}")))
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, String) {
    match request.send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            match answer.text().await {
                Ok(text) => (status, text),
                Err(error) => (0, error.to_string()),
            }
        }
        Err(error) => (0, error.to_string()),
    }
}
