//! Every NATS name in one place: subjects, streams, buckets, headers. Nothing outside this module spells one out.

use crate::ids::{EpicId, NodeId, RoleName, ShardId};

/// Group of the public micro service; its endpoints are `amphi.api.<noun>.<verb>`.
pub const API_GROUP: &str = "amphi.api";
/// Name of the micro service.
pub const SERVICE_NAME: &str = "amphi";
/// Stream of public events (memory, bounded, rebuildable).
pub const EVENTS_STREAM: &str = "AMPHI_EVENTS";
/// What [`EVENTS_STREAM`] holds.
pub const EVENTS_SUBJECTS: &str = "amphi.evt.>";
/// Stream of agent messages.
pub const MESSAGES_STREAM: &str = "AMPHI_MESSAGES";
/// What [`MESSAGES_STREAM`] holds.
pub const MESSAGES_SUBJECTS: &str = "amphi.msg.>";
/// Stream of task output, bounded.
pub const OUTPUT_STREAM: &str = "AMPHI_OUTPUT";
/// What [`OUTPUT_STREAM`] holds.
pub const OUTPUT_SUBJECTS: &str = "amphi.out.>";
/// Object store bucket for large documents and artifacts, by content hash.
pub const OBJECTS_BUCKET: &str = "AMPHI_OBJECTS";
/// Key-value bucket of what is decided once for all nodes, such as the commit that an epic works on.
pub const PINS_BUCKET: &str = "AMPHI_PINS";
/// Header that names the codec of an internal message.
pub const CODEC_HEADER: &str = "Amphi-Codec";
/// The idempotency key of a submission.
pub const MESSAGE_ID_HEADER: &str = "Nats-Msg-Id";
/// Of a message: the epic that it comes from.
pub const EPIC_HEADER: &str = "Amphi-Epic";
/// Of a message: the task that it comes from.
pub const TASK_HEADER: &str = "Amphi-Task";
/// Of a message: the run that it comes from.
pub const RUN_HEADER: &str = "Amphi-Run";
/// Of a message: the attempt that it comes from.
pub const ATTEMPT_HEADER: &str = "Amphi-Attempt";
/// Error text of a reply.
pub const ERROR_HEADER: &str = "Nats-Service-Error";
/// Error number of a reply.
pub const ERROR_CODE_HEADER: &str = "Nats-Service-Error-Code";

/// All journals, for permissions: nobody but the nodes may write there.
pub const JOURNALS: &str = "amphi.journal.>";

/// Stream of a shard's journal.
pub fn journal_stream(shard: ShardId) -> String {
    format!("AMPHI_JOURNAL_{shard}")
}

/// The one literal subject of a shard's journal.
pub fn journal_subject(shard: ShardId) -> String {
    format!("amphi.journal.{shard}")
}

/// What one node may say, for permissions: everything below carries its name, and nobody else may speak there.
pub fn spoken_by(node: &NodeId) -> String {
    format!("amphi.int.from.{node}.>")
}

/// Inputs of all nodes for the leader of a shard, to subscribe to; who speaks is [`sender`]'s to say, never the body's.
pub fn leader(shard: ShardId) -> String {
    format!("amphi.int.from.*.shard.{shard}.input")
}

/// Inputs of one node for the leader of a shard.
pub fn to_leader(from: &NodeId, shard: ShardId) -> String {
    format!("amphi.int.from.{from}.shard.{shard}.input")
}

/// Heartbeats of all nodes, for all Managers of a shard, to subscribe to.
pub fn heartbeats(shard: ShardId) -> String {
    format!("amphi.int.from.*.shard.{shard}.heartbeat")
}

/// Heartbeats of one node.
pub fn heartbeat(from: &NodeId, shard: ShardId) -> String {
    format!("amphi.int.from.{from}.shard.{shard}.heartbeat")
}

/// Where whoever holds a shard's lease says that it is there; nobody listening means that nobody holds it.
pub fn lease_holder(shard: ShardId) -> String {
    format!("amphi.int.shard.{shard}.holder")
}

/// Where the `up` that runs the server lets nodes in and shuts them out.
pub const NODE_USERS: &str = "amphi.int.up.users";

/// Where nodes with a seat say how many shards the cluster has.
pub const SHARD_COUNT: &str = "amphi.int.shard.count";

/// Where nodes that remember a shard's journal say so; nobody listening means that no living node does.
pub fn journal_memory(shard: ShardId) -> String {
    format!("amphi.int.shard.{shard}.memory")
}

/// Requests of the public API that another node's gateway passes on to the leader of a shard.
pub fn passed_on(shard: ShardId) -> String {
    format!("amphi.int.shard.{shard}.api")
}

/// Header of a passed-on request: its verb, such as `epic.get`.
pub const VERB_HEADER: &str = "Amphi-Verb";
/// Header of a passed-on request: who asked.
pub const BY_HEADER: &str = "Amphi-By";

/// Where neighbours say that a node's process is dead, to subscribe to.
pub fn node_deaths(shard: ShardId) -> String {
    format!("amphi.int.from.*.shard.{shard}.death")
}

/// The death of one node, said in its name by the `up` that runs it: nobody else has seen its process end.
pub fn node_death(of: &NodeId, shard: ShardId) -> String {
    format!("amphi.int.from.{of}.shard.{shard}.death")
}

/// In whose name a message was sent: the subject says it, and the server lets nobody speak on another's.
pub fn sender(subject: &str) -> Option<NodeId> {
    let (node, _) = subject.strip_prefix("amphi.int.from.")?.split_once('.')?;
    NodeId::parse(node).ok()
}

/// Everything between nodes and Managers, for permissions: clients may listen and not speak there.
pub const INTERNAL: &str = "amphi.int.>";
/// Where nodes wait for answers, each below its own name. Below [`INTERNAL`], so that no client can send them anything either.
pub const INTERNAL_INBOX: &str = "amphi.int.inbox";

/// Where one node, or the `up` of that name, waits for answers: nobody else may listen there.
pub fn inbox_of(name: &str) -> String {
    format!("{INTERNAL_INBOX}.{name}")
}

/// True for a subject where some node, and nobody but it, waits for an answer.
pub fn is_inbox(subject: &str) -> bool {
    subject.strip_prefix(INTERNAL_INBOX).is_some_and(|rest| rest.starts_with('.'))
}

/// True for what nodes and Managers say to each other; everything else is between clients and the system.
pub fn is_internal(subject: &str) -> bool {
    subject.starts_with("amphi.int.")
}

/// Stream that says who holds the Manager's lease of each shard.
pub const SEATS_STREAM: &str = "AMPHI_SEATS";
/// What [`SEATS_STREAM`] holds.
pub const SEATS_SUBJECTS: &str = "amphi.seat.>";

/// How many shards the cluster has; written once.
pub const SHARDS_SUBJECT: &str = "amphi.seat.shards";

/// The lease of a shard's Manager.
pub fn seat(shard: ShardId) -> String {
    format!("amphi.seat.{shard}")
}

/// Commands of a shard's Manager for a node.
pub fn node_commands(node: &NodeId, shard: ShardId) -> String {
    format!("amphi.int.node.{node}.command.{shard}")
}

/// A node's own published state (its supervision tree), by request.
pub fn node_tree(node: &NodeId) -> String {
    format!("amphi.int.node.{node}.tree")
}

/// What a node's agents were told last, by request with the agent's id as body.
pub fn node_inbox(node: &NodeId) -> String {
    format!("amphi.int.node.{node}.inbox")
}

/// Messages to a role, or to all.
pub fn messages_to(to: &RoleName) -> String {
    format!("amphi.msg.{to}")
}

/// Live requests to one agent of a role.
pub fn role_requests(role: &RoleName) -> String {
    format!("amphi.int.role.{role}.ask")
}

/// All events of an epic.
pub fn epic_events(epic: &EpicId) -> String {
    format!("amphi.evt.{epic}.>")
}

/// Output of one attempt; `stream` is `out` or `err`.
pub fn output(epic: &EpicId, task_token: &str, run: u32, attempt: u32, stream: &str) -> String {
    format!("amphi.out.{epic}.{task_token}.{run}.{attempt}.{stream}")
}

/// A task's key (`t` or `t[a,b]`) as one subject token: everything but letters, digits, `_` and `-` becomes `-`.
///
/// Only used for output, where the key is in the message as well; events use the ordinal.
pub fn key_token(key: &str) -> String {
    key.trim_end_matches(']').chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

/// Longest subject that a task may wait for.
const AWAITED_BYTES_MAX: usize = 256;

/// Whether a task may wait for messages on `subject`, which may hold the wildcards `*` and `>`.
///
/// # Errors
/// Why not, in words that fit after "cannot be awaited:".
pub fn awaitable(subject: &str) -> Result<(), &'static str> {
    if subject.is_empty() || subject.len() > AWAITED_BYTES_MAX {
        return Err("a subject has 1 to 256 bytes");
    }
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a subject has no blanks");
    }
    let tokens: Vec<&str> = subject.split('.').collect();
    if tokens.iter().any(|token| token.is_empty()) {
        return Err("between its dots stands a word");
    }
    if tokens.iter().any(|token| token.len() > 1 && token.contains(['*', '>'])) || tokens[..tokens.len() - 1].contains(&">") {
        return Err("`*` stands for one whole word, and `>` only at the end");
    }
    if matches!(tokens[0], "*" | ">") {
        return Err("its first word must be a word, or the traffic of the system itself would match");
    }
    if tokens[0].starts_with('$') || matches!(tokens[0], "amphi" | "_INBOX") {
        return Err("subjects that begin with `$`, `amphi.` or `_INBOX.` belong to the system");
    }
    Ok(())
}

/// True if a message on `subject` is one that `pattern` stands for.
pub fn matches(pattern: &str, subject: &str) -> bool {
    let mut wanted = pattern.split('.');
    let mut found = subject.split('.');
    loop {
        match (wanted.next(), found.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(want), Some(token)) if want == "*" || want == token => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_words() {
        for (pattern, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.*.c", "a.b.c", true),
            ("a.b.c", "a.b", false),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn the_subject_names_who_speaks() {
        let (node, shard) = (NodeId::parse("a-node-1").unwrap(), ShardId(3));
        for (said, heard) in [
            (to_leader(&node, shard), leader(shard)),
            (heartbeat(&node, shard), heartbeats(shard)),
            (node_death(&node, shard), node_deaths(shard)),
        ] {
            assert_eq!(sender(&said), Some(node.clone()), "{said}");
            assert!(matches(&heard, &said) && matches(&spoken_by(&node), &said), "{said}");
        }
        for other in ["amphi.int.from.*.shard.0.input", "amphi.int.from.", "amphi.int.shard.0.input", "x", ""] {
            assert_eq!(sender(other), None, "{other}");
        }
    }

    #[test]
    fn the_system_s_own_subjects_cannot_be_awaited() {
        for good in ["a", "deploy.approved", "deploy.*.done", "deploy.>", "Deploy-1.x_y"] {
            assert_eq!(awaitable(good), Ok(()), "{good}");
        }
        let long = "x".repeat(300);
        for bad in [
            "",
            ">",
            "*",
            "*.a",
            "$JS.API",
            "$SYS.>",
            "amphi.api.epic.submit",
            "amphi.>",
            "_INBOX.x",
            "a..b",
            ".a",
            "a.",
            "a b",
            "a.>.b",
            "a.b*",
            "a\n",
            &long,
        ] {
            assert!(awaitable(bad).is_err(), "{bad}");
        }
    }
}
