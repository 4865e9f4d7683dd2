//! Joining a cluster that runs already: with which credentials the nodes log in, and whether they may lead.
//!
//! Whoever joins with a client's URL gets credentials for nodes without a seat from the cluster itself; whoever comes with more rights
//! brings standbys.

use std::time::Duration;

use amphi_adapters::nats::managed::accounts::CORE_ACCOUNT;
use amphi_adapters::nats::{Synced, synced};
use amphi_protocol::api::{ApiError, ErrorBody};
use amphi_protocol::ids::{NodeId, ShardId};
use amphi_protocol::subjects;
use async_nats::Client;
use async_nats::client::RequestErrorKind;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::logins::Applicant;
use super::{EXIT_UNREACHABLE, EXIT_USAGE, Refusal};

/// How long a cluster whose Manager is starting again is waited for.
const MANAGER_PATIENCE: Duration = Duration::from_secs(20);
/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);
const SHARD: ShardId = ShardId(0);

/// How the nodes of this `up` log in.
pub(super) struct Admission {
    /// Each has a user of its own now; else they log in as we do.
    pub(super) users: bool,
    /// They may lead.
    pub(super) seat: bool,
}

/// Finds out how nodes log in with what the user gave us, and lets them in where they need users of their own.
///
/// # Errors
/// These credentials may not speak to nodes, and nobody is there that would let ours in.
pub(super) async fn admission(client: &Client, applicants: &[Applicant], seat: bool) -> Result<Admission, Refusal> {
    let began = Instant::now();
    let account = account(client).await;
    let admit = json!({ "nodes": applicants, "seat": seat }).to_string();
    loop {
        if account.as_deref() == Some(CORE_ACCOUNT) {
            // Credentials of the nodes themselves: the `up` that runs the server is asked, whether or not a Manager is there.
            if let Some(_admitted) = ask(client, format!("{}.admit", subjects::NODE_USERS), &admit).await.reply()? {
                return Ok(Admission { users: true, seat: true });
            }
        } else {
            let plain = Admission { users: false, seat: true };
            if let Some(answer) = ask(client, format!("{}.node.join", subjects::API_GROUP), &admit).await.reply()? {
                match (answer["users"].as_bool(), answer["accounts"].as_bool()) {
                    (Some(true), _) => return Ok(Admission { users: true, seat: false }),
                    (_, Some(true)) => return Err(Refusal::new(EXIT_UNREACHABLE, WITHOUT_EDGE)),
                    _ => return Ok(plain),
                }
            }
            // Nobody serves the API. That nobody hears us there either is an answer of the server, and shows that we may speak.
            if matches!(leader_answers(client).await, Heard::Nobody) {
                return Ok(plain);
            }
        }
        if began.elapsed() > MANAGER_PATIENCE {
            return Err(Refusal::new(EXIT_UNREACHABLE, if account.as_deref() == Some(CORE_ACCOUNT) { WITHOUT_EDGE } else { NO_MANAGER }));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

const NO_MANAGER: &str = "no Manager answers there, and a node may not log in with these credentials\n\
    start the cluster's first `amphi up`, or join with the URL in the file `node-url` of its data folder";
const WITHOUT_EDGE: &str = "clients have an account of their own on this server, and no `amphi up` runs it\n\
    give the URLs of both accounts: --nats URL --nats-edge URL (deploy/nats tells how they are made)";

/// The account that these credentials belong to, if the server says it.
async fn account(client: &Client) -> Option<String> {
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.request("$SYS.REQ.USER.INFO", "".into())).await.ok()?.ok()?;
    let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
    answer["data"]["account"].as_str().map(str::to_owned)
}

/// Refuses a foreign server that may lose acknowledged work with the power, where `durability: power` promises that none is lost.
pub(super) async fn survives_power_loss(client: &Client, url: &str) -> Result<(), Refusal> {
    let found = match synced(client, url).await {
        Synced::Always | Synced::Managed => return Ok(()),
        Synced::Later => {
            "that NATS server does not sync its writes (`sync_interval` is not `always`), so a loss of power may lose accepted work"
        }
        Synced::Unknown => "whether that NATS server syncs its writes cannot be seen, so a loss of power may lose accepted work",
    };
    Err(Refusal::new(
        EXIT_USAGE,
        format!(
            "{found}\n\
             set `jetstream {{ sync_interval: always }}` there and open its monitoring port 8222 or `$SYS.REQ.SERVER.PING.VARZ` to this user; \
             or vouch for it with `cluster.durability_confirmed: true`; or take less with `cluster.durability: process`"
        ),
    ))
}

/// What came back.
enum Heard {
    Reply(Value),
    Refused(ApiError),
    /// Nobody listens there, says the server.
    Nobody,
    /// Nothing, or an error: somebody may be there.
    Silence,
}

impl Heard {
    /// The reply, if there is one; a refusal for good is an error.
    fn reply(self) -> Result<Option<Value>, Refusal> {
        match self {
            Self::Reply(value) => Ok(Some(value)),
            Self::Refused(error) if !error.retryable => {
                let hint = error.hint.map_or(String::new(), |hint| format!("\n{hint}"));
                let code = error.code.exit_code();
                Err(Refusal::new(code, format!("{}{hint}", error.message)))
            }
            Self::Refused(_) | Self::Nobody | Self::Silence => Ok(None),
        }
    }
}

/// Asks the leader for nothing, in the name of nobody.
async fn leader_answers(client: &Client) -> Heard {
    let nobody = NodeId::parse("up").expect("a literal id");
    ask(client, subjects::to_leader(&nobody, SHARD), r#"{"inputs":[]}"#).await
}

async fn ask(client: &Client, subject: String, body: &str) -> Heard {
    match tokio::time::timeout(ANSWER_WITHIN, client.request(subject, body.to_owned().into())).await {
        Ok(Ok(reply)) => match serde_json::from_slice::<ErrorBody>(&reply.payload) {
            Ok(refused) => Heard::Refused(refused.error),
            Err(_) => serde_json::from_slice(&reply.payload).map_or(Heard::Silence, Heard::Reply),
        },
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Heard::Nobody,
        Ok(Err(_)) | Err(_) => Heard::Silence,
    }
}
