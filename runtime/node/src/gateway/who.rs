//! Who asks: the NATS user, as the server itself writes it into each request that comes from the clients' account. Never a field of the
//! body, and never a header that a client could write.

use amphi_protocol::access::Access;
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::subjects;
use async_nats::{HeaderMap, Message};
use serde::Deserialize;

/// Everybody, where clients and nodes share an account and nobody can be told apart.
const LOCAL: &str = "local";
/// Who asks from the account of the nodes, by their credentials or an operator's.
const CORE: &str = "core";
/// Where the server writes who asks; it replaces what the client had written there.
const REQUEST_INFO: &str = "Nats-Request-Info";
/// Longest name of a user that is kept.
const NAME_CHARS_MAX: usize = 128;

/// The part of the server's words that matters.
#[derive(Deserialize)]
struct RequestInfo {
    user: Option<String>,
}

/// Who sent the request. `accounts`: whether clients have an account of their own, without which the header is a client's own word.
///
/// # Errors
/// The message is no request of anybody.
pub(super) fn who(message: &Message, accounts: bool) -> Result<String, ApiError> {
    // A consumer of a stream delivers wherever its maker wants, under the subject and with the headers that were stored.
    let asked = message.subject.strip_prefix(subjects::API_GROUP).is_some_and(|rest| rest.starts_with('.'));
    if !asked {
        return Err(ApiError::new(ErrorCode::PolicyDenied, "a message of a stream is no request"));
    }
    if accounts { from_headers(message.headers.as_ref()) } else { Ok(LOCAL.to_owned()) }
}

fn from_headers(headers: Option<&HeaderMap>) -> Result<String, ApiError> {
    let mut said = headers.into_iter().flat_map(|headers| headers.get_all(REQUEST_INFO));
    let unknown = || ApiError::new(ErrorCode::PolicyDenied, "the server does not say who asks").hint("log in with a user of your own");
    match (said.next(), said.next()) {
        (None, _) => Ok(CORE.to_owned()),
        (Some(info), None) => {
            let info: RequestInfo = serde_json::from_str(info.as_str()).map_err(|_| unknown())?;
            let user: String = info.user.unwrap_or_default().chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
            if user.is_empty() { Err(unknown()) } else { Ok(user) }
        }
        (Some(_), Some(_)) => Err(unknown()),
    }
}

/// Refuses what the user's role may not ask. Of a user whose name tells no role the server's permissions alone decide.
///
/// # Errors
/// `policy.denied`.
pub(super) fn may(by: &str, verb: &str) -> Result<(), ApiError> {
    let needed = Access::needed_for(verb);
    match Access::of_user(by) {
        Some(access) if access < needed => {
            metrics::counter!("amphi_denied_total").increment(1);
            tracing::warn!(by, verb, "denied");
            Err(ApiError::new(ErrorCode::PolicyDenied, format!("{by} may not ask for {verb}"))
                .hint(format!("it takes the role {needed}: log in as such a user")))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(subject: &str, headers: &[(&str, &str)]) -> Message {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        Message {
            subject: subject.into(),
            reply: None,
            payload: bytes::Bytes::new(),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn who_asks_is_what_the_server_wrote_and_nothing_else() {
        let info = r#"{"acc":"EDGE","rtt":1,"user":"submitter"}"#;
        let request =
            asked("amphi.api.epic.submit", &[(REQUEST_INFO, info), ("nats-request-info", r#"{"user":"admin"}"#), ("By", "admin")]);
        assert_eq!(who(&request, true).unwrap(), "submitter");
        assert_eq!(who(&request, false).unwrap(), "local", "without accounts a client may have written it");
        assert_eq!(who(&asked("amphi.api.epic.get", &[]), true).unwrap(), "core");
        for (subject, headers) in [
            ("amphi.msg.A", vec![(REQUEST_INFO, info)]),
            ("amphi.apix", vec![]),
            ("amphi.api.epic.get", vec![(REQUEST_INFO, info), (REQUEST_INFO, info)]),
            ("amphi.api.epic.get", vec![(REQUEST_INFO, "{}")]),
            ("amphi.api.epic.get", vec![(REQUEST_INFO, "garbage")]),
        ] {
            assert_eq!(who(&asked(subject, &headers), true).unwrap_err().code, ErrorCode::PolicyDenied, "{subject} {headers:?}");
        }
    }

    #[test]
    fn a_role_may_not_what_only_a_higher_one_may() {
        for (by, verb, allowed) in [
            ("viewer", "epic.list", true),
            ("viewer", "epic.submit", false),
            ("submitter", "epic.submit", true),
            ("submitter", "gate.decide", false),
            ("approver", "gate.decide", true),
            ("approver", "node.drain", false),
            ("admin", "node.drain", true),
            ("core", "node.drain", true),
            ("local", "node.drain", true),
            ("somebody", "epic.submit", true),
        ] {
            assert_eq!(may(by, verb).is_ok(), allowed, "{by} {verb}");
        }
    }
}
