//! `amphi demo`: a cluster of three node processes on loopback releases the sample application, while customers use it, and everything
//! that was promised is checked from outside: over HTTP, by SQL, and from the journal.
//!
//! It is a client like any other, plus the processes that it starts; all of those end with it. Start at [`demo`] and [`Play::perform`].

mod breaks;
mod chaos;
mod customers;
mod files;
mod judge;
mod shop;
mod stage;
mod timeline;
mod voice;
mod watch;

use std::time::Duration;

use amphi_config::Environment;
use amphi_protocol::ids::EpicId;
use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use self::breaks::Break;
use self::chaos::Chaos;
use self::customers::{Customers, Receipts};
use self::shop::{Shop, check_python};
use self::stage::{NODES, Stage, broken};
use self::voice::Voice;
use self::watch::{Ended, Watch};
use super::Global;
use super::client::Client;
use super::epic_file;
use super::epic_report::report_text;
use super::failure::{Failure, exit};
use super::screen::{Screen, counted, duration_text, items, talk, text_of};
use super::tree::tree_text;
use super::verdict::verdict_text;

/// `amphi demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Kill nodes in the middle of it: the Manager's seat, and the one where an attempt holds a lock
    #[arg(long)]
    chaos: bool,
    /// Keep the folder with data, logs, releases and the database
    #[arg(long)]
    keep: bool,
}

/// The releases, in order.
const RELEASES: [&str; 2] = ["1.0.0", "2.0.0"];
/// The epic's tasks by phase.
const TASKS: [&[&str]; 5] = [
    &["compile_api", "compile_web", "run_unit_tests"],
    &["run_integration_tests", "verify_e2e_tests"],
    &["prep_migration", "create_snapshot", "validate_vps_health"],
    &["apply_migration", "deploy_api", "deploy_web"],
    &["verify_metrics", "run_smoke_tests", "finalize_backup"],
];
/// Seconds between two batches of the migration: none, as it is shown, and so that a kill hits it for certain: `EARLY_ORDERS` are 16
/// batches, and `chaos` strikes after 0.4 s.
const PAUSES: [&str; 3] = ["0", "0.03", "0.1"];
/// How long a submission is tried.
const SUBMIT_WINDOW: Duration = Duration::from_secs(30);

/// Releases the sample application; 0 only if everything holds. With `AMPHI_DEMO_BREAK` the release fails there, and 1 is what is right.
pub async fn demo(global: &Global, screen: Screen, args: DemoArgs) -> Result<u8, Failure> {
    let began = Instant::now();
    let broken_at = Break::wanted(&Environment::capture(), args.chaos)?;
    check_python().await?;
    let mut signals = Signals::new()?;
    let (voice, stage) = (Voice::new(screen), Stage::new()?);
    let mut play = Play { global, voice, stage, chaos: args.chaos, broken_at, result: json!({}) };
    let outcome = tokio::select! {
        outcome = play.perform() => outcome.map(|()| exit::OK),
        () = signals.any() => Ok(exit::INTERRUPTED),
    };
    play.voice.end();
    let ended = tokio::select! {
        ended = play.stage.end() => ended,
        // Everything is killed with its handle, and by the kernel.
        () = signals.any() => return Ok(exit::INTERRUPTED),
    };
    play.close(outcome, ended, began, args.keep)
}

/// One performance.
struct Play<'a> {
    global: &'a Global,
    voice: Voice,
    stage: Stage,
    chaos: bool,
    broken_at: Option<Break>,
    /// What `--json` prints at the end.
    result: Value,
}

impl Play<'_> {
    async fn perform(&mut self) -> Result<(), Failure> {
        let (client, shop) = self.open().await?;
        let early = self.first_release(&client, &shop).await?;
        let before = shop.database().await?;
        let mut chaos = if self.chaos { Chaos::full(seat(&client).await?) } else { Chaos::none() };
        let (ended, receipts) = self.second_release(&client, &shop, early, &mut chaos).await?;
        self.explain(&client, &ended, &chaos).await?;
        self.voice.title("What holds")?;
        let after = shop.database().await?;
        if let Some(broken_at) = self.broken_at {
            let (failed, undone) = broken_at.judge(&mut self.voice, &ended)?;
            (self.result["failed"], self.result["undone"]) = (json!(failed), json!(undone));
            judge::live(&mut self.voice, &shop, RELEASES[0]).await?;
            judge::data_as_before(&mut self.voice, &before, &after, &receipts)?;
        } else {
            judge::history(&mut self.voice, &ended)?;
            judge::live(&mut self.voice, &shop, RELEASES[1]).await?;
            judge::data(&mut self.voice, &before, &after, &receipts)?;
        }
        self.result["orders"] = receipts.as_json(after.keys.len());
        Ok(())
    }

    /// The cluster, and a server that runs nothing yet.
    async fn open(&mut self) -> Result<(Client, Shop), Failure> {
        self.voice.title(&format!("A cluster of {NODES} node processes, and a server for the shop"))?;
        let began = Instant::now();
        files::unpack(&self.stage.shop()).map_err(|error| Failure::file("unpack the shop to", &self.stage.shop(), &error))?;
        let ready = self.stage.start_cluster().await?;
        let nodes = items(&ready, "nodes").iter().map(|node| format!("{} (pid {})", text_of(node, "id"), text_of(node, "pid")));
        self.voice.line(&format!("nats-server (pid {}), {}", text_of(&ready, "nats_pid"), nodes.collect::<Vec<_>>().join(", ")))?;
        let host = self.stage.start_host().await?;
        let shop = Shop::new(self.stage.shop(), &host)?;
        self.voice.line(&format!("service host (pid {}): API at {}, web at {}", text_of(&host, "pid"), shop.api, shop.web))?;
        self.voice.line(&format!(
            "ready after {:.1} s, everything is below {}",
            began.elapsed().as_secs_f32(),
            self.stage.folder.display()
        ))?;
        let mut global = self.global.clone();
        global.nats = ready["nats"].as_str().map(str::to_owned);
        Ok((Client::connect(&global).await?, shop))
    }

    async fn first_release(&mut self, client: &Client, shop: &Shop) -> Result<Receipts, Failure> {
        let version = RELEASES[0];
        self.voice.title(&format!("Release {version}, quietly"))?;
        shop.ops("checkout.py", &[version]).await?;
        let epic = submit(client, &self.stage, version, PAUSES[0]).await?;
        self.result["epics"]["v1"] = json!(epic);
        let ended = Watch::new(client, epic, TASKS.concat().len()).follow(None, &mut self.stage, &mut Chaos::none()).await?;
        self.voice.check(&format!("release {version} succeeded"), ended.state == "succeeded", ended.epic.as_str())?;
        judge::live(&mut self.voice, shop, version).await?;
        let early = customers::early_orders(shop).await?;
        self.voice.line(&format!("{} were placed", counted(early.accepted.len() as u64, "order")))?;
        Ok(early)
    }

    async fn second_release(
        &mut self,
        client: &Client,
        shop: &Shop,
        early: Receipts,
        chaos: &mut Chaos,
    ) -> Result<(Ended, Receipts), Failure> {
        let version = RELEASES[1];
        self.voice.title(&format!("Deploy v{version} to production, while customers buy"))?;
        self.voice.show("tree", &tree_text(client, self.voice.style()).await?)?;
        shop.ops("checkout.py", &[version]).await?;
        if let Some(broken_at) = self.broken_at {
            let how = shop.ops("sabotage.py", &[broken_at.word()]).await?;
            self.voice.line("")?;
            self.voice.line(&format!("AMPHI_DEMO_BREAK={}: {how}", broken_at.word()))?;
        }
        let epic = submit(client, &self.stage, version, PAUSES[if self.chaos { 2 } else { 1 }]).await?;
        self.result["epics"]["v2"] = json!(epic);
        self.voice.line("")?;
        self.voice.line(&format!("accepted as {epic}: from here on it has to end, whatever dies"))?;
        let customers = Customers::come(shop.clone());
        let watch = Watch::new(client, epic, TASKS.concat().len());
        let ended = watch.follow(Some(&mut self.voice), &mut self.stage, chaos).await?;
        let receipts = customers.leave(early).await;
        self.result["state"] = json!(ended.state);
        Ok((ended, receipts))
    }

    /// Locks over time, report and verdict, as the commands show them.
    async fn explain(&mut self, client: &Client, ended: &Ended, chaos: &Chaos) -> Result<(), Failure> {
        let style = self.voice.style();
        self.voice.title("Who held which lock when")?;
        for line in timeline::lock_timeline(&ended.events, style).lines() {
            self.voice.painted(line)?;
        }
        if self.chaos {
            self.voice.title("What chaos did")?;
            chaos.judge(&ended.events, &mut self.voice)?;
            self.result["kills"] = chaos.as_json(&ended.events);
        }
        self.voice.title("The report and the verdict")?;
        let report = client.call("epic.report", &json!({ "epic": ended.epic })).await?;
        let report = serde_json::from_value(report).map_err(|error| broken(format!("the report cannot be read: {error}")))?;
        self.voice.show(&format!("epic report {}", ended.epic), &report_text(&report, style))?;
        let verdict = client.call("epic.verify", &json!({ "epic": ended.epic })).await?;
        self.voice.show(&format!("epic verify {}", ended.epic), &verdict_text(&verdict, style))?;
        self.voice.check("`epic verify` finds no law violated", verdict["ok"] == Value::Bool(true), "")
    }

    /// The last checks, the score, and what the process exits with.
    fn close(
        mut self,
        outcome: Result<u8, Failure>,
        (up_code, left): (Option<i32>, Vec<u32>),
        began: Instant,
        keep: bool,
    ) -> Result<u8, Failure> {
        let code = match outcome {
            Ok(exit::INTERRUPTED) => {
                talk("interrupted; everything that was started has ended");
                exit::INTERRUPTED
            }
            Ok(code) => code,
            // The error is told after the folder is.
            Err(failure) => {
                talk(&format!("kept: {}", self.stage.folder.display()));
                return Err(failure);
            }
        };
        if code == exit::OK {
            self.voice.title("The end")?;
            self.voice.check("`amphi up` ended with 0 on TERM", up_code == Some(0), "")?;
        }
        self.voice.check(
            "no process that was started is left",
            left.is_empty(),
            &left.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        )?;
        let (held, all) = self.voice.score();
        let is_good = held == all && code == exit::OK && self.broken_at.is_none();
        let as_wanted = held == all && code == exit::OK;
        let is_kept = keep || (held != all && code == exit::OK);
        if !is_kept && let Err(error) = self.stage.remove() {
            talk(&format!("{} could not be removed: {error}", self.stage.folder.display()));
        }
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let verdict = match (as_wanted, self.broken_at) {
            (true, None) => "Everything holds".to_owned(),
            (true, Some(broken_at)) => format!("The release failed ({}), and everything is as it was before", broken_at.word()),
            (false, _) => "NOT everything holds".to_owned(),
        };
        self.voice.title(&format!("{verdict}: {held} of {all} checks, {}", duration_text(took)))?;
        if is_kept {
            self.voice.line(&format!("kept: {}", self.stage.folder.display()))?;
        }
        self.result["ok"] = json!(is_good);
        self.result["mode"] = json!(if self.chaos { "chaos" } else { "release" });
        self.result["break"] = json!(self.broken_at.map(Break::word));
        self.result["folder"] = if is_kept { json!(self.stage.folder) } else { Value::Null };
        self.result["checks"] = self.voice.checks();
        self.result["pids"] = json!(self.stage.pids());
        self.result["duration_ms"] = json!(took);
        self.voice.result(&self.result)?;
        Ok(match code {
            exit::OK if is_good => exit::OK,
            exit::OK => exit::FAILED,
            code => code,
        })
    }
}

/// The node on which the Manager sits.
async fn seat(client: &Client) -> Result<String, Failure> {
    let nodes = client.call("node.list", &json!({})).await?;
    let leads = |node: &&Value| !items(node, "leads").is_empty();
    items(&nodes, "nodes").iter().find(leads).map(|node| text_of(node, "id")).ok_or_else(|| broken("no node leads"))
}

/// Submits the release of a version, as `amphi run` would.
async fn submit(client: &Client, stage: &Stage, version: &str, pause: &str) -> Result<EpicId, Failure> {
    let document = epic_file::read(&stage.shop().join("release.epic.yaml"))?;
    let id = format!("release-{version}");
    let body = json!({
        "document": document.text,
        "inputs": { "version": version, "pause": pause },
        "workspace_base": document.base.display().to_string(),
        "file": document.name,
        "id": id,
    });
    let reply = client.call_until("epic.submit", &body, &id, Instant::now() + SUBMIT_WINDOW).await?;
    let epic = reply["epic"].as_str().and_then(|epic| EpicId::parse(epic).ok());
    epic.ok_or_else(|| broken("the cluster accepted the epic without saying its id"))
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    term: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| broken(format!("signals cannot be received: {error}")));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.term.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
