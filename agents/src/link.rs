//! The way to the leader of a shard: inputs go there, verdicts come back.
//!
//! A link never decides to drop anything: what it could not deliver for certain is an error, and the [`crate::outbox`] sends again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphi_ports::{BusError, MessageBus};
use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::{CommitIndex, Epoch, NodeId, ShardId};
use amphi_protocol::journal::Input;
use amphi_protocol::subjects;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Value, json};

/// Delivers inputs to whoever leads.
pub trait LeaderLink: Send + Sync + 'static {
    /// Sends `inputs` and waits until the commit that contains them is acknowledged, or each is refused.
    fn send(&self, inputs: Vec<Input>) -> BoxFuture<'static, Result<LeaderReply, LinkError>>;
}

/// The leader's answer; it stands after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderReply {
    /// The leader's term.
    pub epoch: Epoch,
    /// The commit up to which it answers.
    pub index: CommitIndex,
    /// One for each input, in order.
    pub results: Vec<Verdict>,
}

/// What became of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is on record, or was already.
    Accepted,
    /// It is not and will not be; the code says why.
    Refused(String),
}

/// Why inputs got no verdicts.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody leads at present; the inputs were certainly not taken.
    #[error("no leader answers")]
    NoLeader,
    /// Whether the inputs were taken is unknown.
    #[error("whether the leader took the inputs is unknown")]
    Unknown(#[source] BusError),
    /// The leader refused the request as a whole.
    #[error("the leader refused the request: {code}")]
    Rejected {
        /// Its code.
        code: String,
        /// The same request may succeed later.
        retryable: bool,
    },
    /// The answer is that of an older term than the node knows of.
    #[error("a Manager of term {epoch} answers, which was deposed")]
    Deposed {
        /// Its term.
        epoch: Epoch,
    },
    /// The answer is not of the agreed shape.
    #[error("the leader's answer cannot be read: {0}")]
    Malformed(String),
}

/// [`LeaderLink`] over the bus: a request on the node's own subject with JSON bodies (inputs hold open-ended values, so not bincode).
pub struct BusLeaderLink {
    bus: Arc<dyn MessageBus>,
    node: NodeId,
    shard: ShardId,
    timeout: Duration,
}

impl BusLeaderLink {
    /// The link of `node` to the leader of `shard`; `timeout` bounds one request, commit included.
    pub fn new(bus: Arc<dyn MessageBus>, node: NodeId, shard: ShardId, timeout: Duration) -> Self {
        Self { bus, node, shard, timeout }
    }
}

impl LeaderLink for BusLeaderLink {
    fn send(&self, inputs: Vec<Input>) -> BoxFuture<'static, Result<LeaderReply, LinkError>> {
        let (bus, subject, timeout) = (self.bus.clone(), subjects::to_leader(&self.node, self.shard), self.timeout);
        Box::pin(async move {
            let count = inputs.len();
            let body = Bytes::from(json!({ "inputs": inputs }).to_string());
            let reply = match bus.request(subject, BTreeMap::new(), body, timeout).await {
                Ok(reply) => reply,
                Err(BusError::NoResponders { .. }) => return Err(LinkError::NoLeader),
                Err(error @ (BusError::Timeout { .. } | BusError::Failed { .. })) => return Err(LinkError::Unknown(error)),
            };
            let reply = read_reply(&reply.body)?;
            if reply.results.len() == count {
                Ok(reply)
            } else {
                Err(LinkError::Malformed(format!("{} verdicts for {count} inputs", reply.results.len())))
            }
        })
    }
}

/// Reads `{"results":[{"ok":true}|{"refused":"code"}],"epoch":n,"index":n}` or `{"error":{"code":…}}`.
fn read_reply(body: &[u8]) -> Result<LeaderReply, LinkError> {
    let malformed = |what: &str| LinkError::Malformed(what.to_owned());
    let value: Value = serde_json::from_slice(body).map_err(|error| LinkError::Malformed(error.to_string()))?;
    if let Some(error) = value.get("error") {
        let code = error.get("code").and_then(Value::as_str).ok_or_else(|| malformed("an error without code"))?;
        let retryable = error.get("retryable").and_then(Value::as_bool).unwrap_or_else(|| is_retryable(code));
        return Err(LinkError::Rejected { code: code.to_owned(), retryable });
    }
    let number = |key: &str| value.get(key).and_then(Value::as_u64).ok_or_else(|| LinkError::Malformed(format!("no `{key}`")));
    let results = value.get("results").and_then(Value::as_array).ok_or_else(|| malformed("no `results`"))?;
    let results = results.iter().map(|result| {
        if result.get("ok").and_then(Value::as_bool) == Some(true) {
            return Ok(Verdict::Accepted);
        }
        let code = result.get("refused").and_then(Value::as_str).ok_or_else(|| malformed("a result without verdict"))?;
        Ok(Verdict::Refused(code.to_owned()))
    });
    Ok(LeaderReply { epoch: Epoch(number("epoch")?), index: CommitIndex(number("index")?), results: results.collect::<Result<_, _>>()? })
}

/// True if the code belongs to a refusal that may pass by itself.
pub(crate) fn is_retryable(code: &str) -> bool {
    ErrorCode::ALL.iter().any(|known| known.as_str() == code && known.is_retryable())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_of_a_reply_is_read_and_anything_else_is_malformed() {
        let reply = read_reply(br#"{"results":[{"ok":true},{"refused":"state.conflict"}],"epoch":3,"index":9}"#).unwrap();
        assert_eq!(reply.results, [Verdict::Accepted, Verdict::Refused("state.conflict".to_owned())]);
        assert_eq!((reply.epoch, reply.index), (Epoch(3), CommitIndex(9)));
        for bad in ["", "[]", "{}", r#"{"results":[{}],"epoch":1,"index":1}"#, r#"{"results":[]}"#, r#"{"error":{}}"#] {
            assert!(matches!(read_reply(bad.as_bytes()), Err(LinkError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn a_missing_leader_is_retryable_and_an_invalid_request_is_not() {
        let error = |code: &str| read_reply(format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#).as_bytes()).unwrap_err();
        assert!(matches!(error("cluster.no_leader"), LinkError::Rejected { retryable: true, .. }));
        assert!(matches!(error("request.invalid"), LinkError::Rejected { retryable: false, .. }));
    }
}
