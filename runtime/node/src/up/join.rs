//! Joining a cluster that runs already: with which credentials the nodes log in, and whether they may lead.
//!
//! Whoever joins with a client's URL gets credentials for nodes without a seat from the cluster itself; whoever comes with more rights
//! brings standbys.

use std::time::Duration;

use amphi_adapters::nats::with_credentials;
use amphi_protocol::ids::{NodeId, ShardId};
use amphi_protocol::subjects;
use async_nats::Client;
use async_nats::client::RequestErrorKind;
use serde_json::Value;
use tokio::time::Instant;

use super::{EXIT_UNREACHABLE, Refusal};

/// How long a cluster whose Manager is starting again is waited for.
const MANAGER_PATIENCE: Duration = Duration::from_secs(20);
/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(250);
const SHARD: ShardId = ShardId(0);

/// The URL that the nodes of this `up` get, and whether the cluster has a Manager that gave it to us.
pub(super) struct Admission {
    pub(super) node_url: String,
    /// The credentials are for nodes without a seat.
    pub(super) seatless: bool,
}

/// Finds out how nodes log in with what the user gave us.
///
/// # Errors
/// These credentials may not speak to nodes, and no Manager is there that would give us better ones.
pub(super) async fn admission(client: &Client, url: &str) -> Result<Admission, Refusal> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask(client, format!("{}.node.join", subjects::API_GROUP), "{}").await.reply() {
            let (user, password) = (answer["user"].as_str(), answer["password"].as_str());
            return Ok(match user.zip(password) {
                Some((user, password)) => Admission { node_url: with_credentials(url, user, password), seatless: true },
                None => Admission { node_url: url.to_owned(), seatless: false },
            });
        }
        // Nobody serves the API. That nobody hears us there either is an answer of the server, and shows that we may speak.
        if matches!(leader_answers(client).await, Heard::Nobody) {
            return Ok(Admission { node_url: url.to_owned(), seatless: false });
        }
        if began.elapsed() > MANAGER_PATIENCE {
            return Err(Refusal::new(
                EXIT_UNREACHABLE,
                "no Manager answers there, and a node may not log in with these credentials\n\
                 start the cluster's first `amphi up`, or join with the URL in the file `node-url` of its data folder",
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What came back.
enum Heard {
    Reply(Value),
    /// Nobody listens there, says the server.
    Nobody,
    /// Nothing, or an error: somebody may be there.
    Silence,
}

impl Heard {
    fn reply(self) -> Option<Value> {
        match self {
            Self::Reply(value) => Some(value),
            Self::Nobody | Self::Silence => None,
        }
    }
}

/// Asks the leader for nothing, in the name of nobody.
async fn leader_answers(client: &Client) -> Heard {
    let nobody = NodeId::parse("up").expect("a literal id");
    ask(client, subjects::to_leader(&nobody, SHARD), r#"{"inputs":[]}"#).await
}

async fn ask(client: &Client, subject: String, body: &'static str) -> Heard {
    match tokio::time::timeout(ANSWER_WITHIN, client.request(subject, body.into())).await {
        Ok(Ok(reply)) => match serde_json::from_slice::<Value>(&reply.payload) {
            Ok(value) if value.get("error").is_none() => Heard::Reply(value),
            Ok(_) | Err(_) => Heard::Silence,
        },
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Heard::Nobody,
        Ok(Err(_)) | Err(_) => Heard::Silence,
    }
}
