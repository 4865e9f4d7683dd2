//! The part of `doctor` that looks at a cluster, through what any client may ask.

use std::path::Path;

use amphi_adapters::nats::{Synced, synced};
use amphi_protocol::access::Access;
use amphi_protocol::ids::ShardId;
use amphi_protocol::subjects;
use async_nats::jetstream;
use serde_json::{Value, json};

use super::Global;
use super::client::{Client, find_url, redacted};
use super::doctor::Finding;
use super::events::{now_ms, timestamp_ms};
use super::screen::items;

/// Difference of clocks that is worth knowing.
const CLOCK_OFFSET_MS_WARN: u64 = 2_000;

/// Looks at the cluster that the user means.
pub async fn look(global: &Global, data: &Path) -> Vec<Finding> {
    let client = match Client::connect(global).await {
        Ok(client) => client,
        Err(failure) => {
            let (message, hint) = failure.into_parts();
            return vec![Finding::fail("cluster", message, hint.unwrap_or_else(|| "amphi up".to_owned()))];
        }
    };
    let server = client.nats().server_info();
    let url = find_url(global).map_or_else(|_| "the server".to_owned(), |(url, origin)| format!("{} (from {origin})", redacted(&url)));
    let mut findings = vec![Finding::ok("cluster", format!("{url}, nats-server {}", server.version)), payload(&client)];
    findings.push(jetstream_account(&client).await);
    findings.push(durability(global, data, &client).await);
    findings.push(accounts(&client).await);
    findings.push(streams(&client).await);
    findings.push(leader(&client).await);
    findings.push(clock(&client).await);
    findings
}

fn payload(client: &Client) -> Finding {
    let bytes = client.nats().max_payload();
    let found = format!("{bytes} bytes");
    if bytes >= 8 << 20 {
        Finding::ok("max_payload", found)
    } else {
        Finding::warn("max_payload", found, "larger epics cannot be sent in one message; set max_payload: 8MB")
    }
}

async fn jetstream_account(client: &Client) -> Finding {
    match jetstream::new(client.nats().clone()).query_account().await {
        Ok(account) => {
            let found =
                format!("{} streams, {} MiB on disk, {} MiB in memory", account.streams, account.storage >> 20, account.memory >> 20);
            Finding::ok("JetStream", found)
        }
        Err(error) => Finding::fail("JetStream", error.to_string(), "enable JetStream in the server, and for this user"),
    }
}

/// Whether an acknowledged write survives a power loss: by the managed server's own configuration, or as a foreign server tells.
async fn durability(global: &Global, data: &Path, client: &Client) -> Finding {
    let found = find_url(global);
    let named = found.as_ref().is_ok_and(|(_, origin)| matches!(&**origin, "--nats" | "--context" | "AMPHI_NATS_URL"));
    let text = std::fs::read_to_string(data.join("nats/server.conf")).ok().filter(|_| !named);
    let Some(text) = text else {
        let url = found.map_or_else(|_| String::new(), |(url, _)| url);
        return match synced(client.nats(), &url).await {
            Synced::Always => Finding::ok("durability", "power: a foreign server with sync_interval: always"),
            Synced::Managed => Finding::ok("durability", "the managed server of another `amphi up`, which says so itself"),
            Synced::Later => {
                let advice = "a power loss may lose acknowledged work; set sync_interval: always there";
                Finding::warn("durability", "process: a foreign server that syncs its writes later", advice)
            }
            Synced::Unknown => Finding::warn(
                "durability",
                "a foreign server; its sync_interval cannot be asked",
                "set sync_interval: always there, and durability_confirmed: true here",
            ),
        };
    };
    let interval = text.lines().find_map(|line| {
        let (key, value) = line.trim().split_once([':', '='])?;
        (key.trim().trim_matches('"') == "sync_interval").then(|| value.trim().trim_matches(['"', ',', ' ']).to_owned())
    });
    match interval.as_deref() {
        Some("always") => Finding::ok("durability", "power: sync_interval is always"),
        other => Finding::warn(
            "durability",
            format!("process: sync_interval is {}", other.unwrap_or("the server's default")),
            "a power loss may lose acknowledged work; durability: power is the default of `amphi up`",
        ),
    }
}

/// Whether the server keeps clients apart from nodes, without which everybody may pose as everybody.
async fn accounts(client: &Client) -> Finding {
    let answer = client.nats().request("$SYS.REQ.USER.INFO", "".into()).await;
    let answer: Value = answer.ok().and_then(|answer| serde_json::from_slice(&answer.payload).ok()).unwrap_or_default();
    let (account, user) = (answer["data"]["account"].as_str().unwrap_or("?"), answer["data"]["user"].as_str().unwrap_or("without a name"));
    let journal = subjects::journal_stream(ShardId(0));
    if jetstream::new(client.nats().clone()).get_stream(&journal).await.is_ok() {
        return Finding::warn(
            "accounts",
            format!(
                "this user ({user} in account {account}) sees {journal}: clients and nodes are not kept apart, and everybody is `local`"
            ),
            "give clients an account of their own: deploy/nats has a configuration; the server that `amphi up` runs has one",
        );
    }
    let role = Access::of_user(user).map_or("as the server permits".to_owned(), |access| access.to_string());
    Finding::ok("accounts", format!("clients are apart from nodes: {user} in account {account}, role {role}"))
}

async fn streams(client: &Client) -> Finding {
    let js = jetstream::new(client.nats().clone());
    let names = [subjects::EVENTS_STREAM, subjects::MESSAGES_STREAM, subjects::OUTPUT_STREAM];
    let mut missing = Vec::new();
    for name in &names {
        if js.get_stream(name).await.is_err() {
            missing.push(*name);
        }
    }
    if missing.is_empty() {
        Finding::ok("streams", names.join(", "))
    } else {
        Finding::warn(
            "streams",
            format!("not visible: {}", missing.join(", ")),
            "a node makes them when it starts; this user may not see them",
        )
    }
}

async fn leader(client: &Client) -> Finding {
    let reply = match client.call("node.list", &json!({ "limit": 500 })).await {
        Ok(reply) => reply,
        Err(failure) => {
            let (message, _) = failure.into_parts();
            return Finding::fail("leader", message, "start a node with `amphi up`; if one runs, its log says why it does not lead");
        }
    };
    let nodes = items(&reply, "nodes");
    let leading: Vec<&str> = nodes.iter().filter(|node| !items(node, "leads").is_empty()).filter_map(|node| node["id"].as_str()).collect();
    if leading.is_empty() {
        return Finding::fail(
            "leader",
            format!("none of {} nodes leads", nodes.len()),
            "wait a few seconds; then look at the log of `amphi up`",
        );
    }
    Finding::ok("leader", format!("{} of {} nodes: {}", leading.len(), nodes.len(), leading.join(", ")))
}

/// Clocks are never compared for safety; ages and leases shown on this machine are off by the difference.
async fn clock(client: &Client) -> Finding {
    let subject = format!("$JS.API.STREAM.INFO.{}", subjects::EVENTS_STREAM);
    let before = now_ms();
    let answer = client.nats().request(subject, "".into()).await;
    let after = now_ms();
    let server = answer.ok().and_then(|message| serde_json::from_slice::<Value>(&message.payload).ok());
    let Some(server) = server.and_then(|info| timestamp_ms(info["ts"].as_str()?)) else {
        return Finding::warn("clock", "the server does not tell its time", "keep clocks in step with NTP");
    };
    let here = before + after.saturating_sub(before) / 2;
    let offset = here.abs_diff(server);
    let found = format!("{offset} ms from the server's");
    if offset <= CLOCK_OFFSET_MS_WARN { Finding::ok("clock", found) } else { Finding::warn("clock", found, "keep clocks in step with NTP") }
}
