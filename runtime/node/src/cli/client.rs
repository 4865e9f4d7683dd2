//! A plain client of the public interface: finds the cluster, asks, understands refusals.
//!
//! It knows nothing that another NATS client could not know, and it never waits without a bound.

use std::path::{Path, PathBuf};
use std::time::Duration;

use amphi_adapters::nats::managed::accounts::private_inbox;
use amphi_config::Environment;
use amphi_protocol::access::Access;
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::subjects;
use async_nats::client::RequestErrorKind;
use async_nats::{ConnectErrorKind, HeaderMap};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Global;
use super::context::NatsContext;
use super::failure::Failure;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a question that certainly reached nobody, or that was refused for now, is asked again.
const RETRY_WINDOW: Duration = Duration::from_secs(4);
/// Pause before the second try; doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between tries.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// The file in the data folder that a running `amphi up` keeps.
pub const READY_FILE: &str = "ready.json";

/// A connection to a cluster.
#[derive(Debug, Clone)]
pub struct Client {
    nats: async_nats::Client,
    /// What the server said last that this user may not; a request without permission gets no answer.
    denied: watch::Receiver<String>,
    request_timeout: Duration,
}

/// What became of one request.
enum Answer {
    Reply(Value),
    Refused(ApiError),
    /// Certainly not taken.
    Nobody,
    /// May have been taken.
    Silence,
    /// Asking again cannot help.
    Broken(Failure),
}

/// The local data folder: `--data`, else `$XDG_DATA_HOME/amphi`, else `~/.local/share/amphi`.
pub fn data_dir(global: &Global) -> Result<PathBuf, Failure> {
    global
        .data
        .clone()
        .or_else(|| amphi_config::data_folder(&Environment::capture()))
        .ok_or_else(|| Failure::usage("there is no home folder").hint("name the data folder: --data DIR"))
}

/// The context that `--context` names, if it does.
fn find_context(global: &Global) -> Result<Option<NatsContext>, Failure> {
    let Some(name) = &global.context else { return Ok(None) };
    if global.nats.is_some() {
        return Err(Failure::usage("--nats and --context both name a server").hint("leave one of them out"));
    }
    NatsContext::load(name, &Environment::capture()).map(Some)
}

/// The NATS URL to use and where it comes from.
pub fn find_url(global: &Global) -> Result<(String, String), Failure> {
    if let Some(context) = find_context(global)? {
        return Ok((context.url().to_owned(), "--context".to_owned()));
    }
    if let Some(url) = &global.nats {
        return Ok((url.clone(), "--nats".to_owned()));
    }
    // An explicit folder is a more particular wish than the environment.
    if global.data.is_none()
        && let Some(url) = Environment::capture().get("AMPHI_NATS_URL")
    {
        return Ok((url.to_owned(), "AMPHI_NATS_URL".to_owned()));
    }
    let path = data_dir(global)?.join(READY_FILE);
    read_ready(&path).map(|url| (url, path.display().to_string()))
}

fn read_ready(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::new(ErrorCode::ClusterUnreachable, format!("no cluster: nothing runs here ({} does not exist)", path.display()))
                .hint("start one with `amphi up`, or name one: --nats URL or AMPHI_NATS_URL")
        }
        _ => Failure::file("read", path, &error),
    })?;
    let ready: Value = serde_json::from_str(&text).unwrap_or_default();
    ready["nats"].as_str().map(str::to_owned).ok_or_else(|| {
        Failure::new(ErrorCode::ClusterUnreachable, format!("{} names no NATS server", path.display()))
            .hint("start the cluster again with `amphi up`")
    })
}

/// `url` with user and password hidden.
pub fn redacted(url: &str) -> String {
    let one = |url: &str| match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}***@{}", &url[..scheme + 3], &url[at + 1..]),
        (None, Some(at)) => format!("***@{}", &url[at + 1..]),
        _ => url.to_owned(),
    };
    url.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// The user in a URL (in the first of several), if it has a password too.
fn credentials_user(url: &str) -> Option<&str> {
    let first = url.split(',').next()?;
    let (credentials, _) = first.split_once("://").map_or(first, |(_, rest)| rest).rsplit_once('@')?;
    credentials.split_once(':').map(|(user, _)| user)
}

impl Client {
    /// Connects to the cluster that the user means.
    pub async fn connect(global: &Global) -> Result<Self, Failure> {
        let (url, origin) = find_url(global)?;
        let shown = redacted(&url);
        let (addresses, options) = amphi_adapters::nats::connect_options(&url, "amphi-cli")
            .map_err(|_| Failure::usage(format!("`{shown}` (from {origin}) is no NATS URL")).hint("for instance nats://127.0.0.1:4222"))?;
        let options = match find_context(global)? {
            Some(context) => context.log_in(options, &Environment::capture()).await?,
            None => options,
        };
        // A known role has an inbox of its own on a server with our accounts, where nobody else overhears the answers.
        let user = credentials_user(&url).filter(|user| Access::of_user(user).is_some());
        let options = match user {
            Some(user) => options.custom_inbox_prefix(private_inbox(user)),
            None => options,
        };
        let (said, denied) = watch::channel(String::new());
        let options = options.connection_timeout(CONNECT_TIMEOUT).event_callback(move |event| {
            let text = event.to_string();
            tracing::debug!(event = text, "NATS connection");
            if text.to_lowercase().contains("permissions violation") {
                said.send_replace(text);
            }
            async {}
        });
        let nats = match timeout(CONNECT_TIMEOUT + Duration::from_secs(1), options.connect(addresses)).await {
            Ok(Ok(nats)) => nats,
            Ok(Err(error)) if matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication) => {
                return Err(Failure::new(ErrorCode::ClusterUnreachable, format!("{shown} (from {origin}) refuses these credentials"))
                    .hint("use the URL that `amphi up` printed, or a user of that server"));
            }
            Ok(Err(error)) => {
                tracing::debug!(?error, "connect");
                return Err(unreachable(&shown, &origin));
            }
            Err(_) => return Err(unreachable(&shown, &origin)),
        };
        Ok(Self { nats, denied, request_timeout: global.request_timeout.0 })
    }

    /// The same, with another time that an answer may take.
    pub fn patient(&self, request_timeout: Duration) -> Self {
        Self { nats: self.nats.clone(), denied: self.denied.clone(), request_timeout }
    }

    /// The connection itself, for streams.
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// Asks `amphi.api.<endpoint>` and gives the reply.
    ///
    /// What reached nobody or was refused for now is asked again for a few seconds; what got no answer is not, because it may have
    /// been taken.
    pub async fn call(&self, endpoint: &str, body: &Value) -> Result<Value, Failure> {
        let until = Instant::now() + RETRY_WINDOW.min(self.request_timeout);
        let mut pause = RETRY_PAUSE;
        loop {
            let failure = match self.ask(endpoint, body, None).await {
                Answer::Reply(reply) => return Ok(reply),
                Answer::Broken(failure) => return Err(failure),
                // A conflict that may be over later is not over in a few seconds; whoever asks decides whether to wait.
                Answer::Refused(error)
                    if !error.retryable || matches!(error.code, ErrorCode::RequestTimeout | ErrorCode::StateConflict) =>
                {
                    return Err(error.into());
                }
                Answer::Refused(error) => error.into(),
                Answer::Nobody => no_leader(),
                Answer::Silence => {
                    let waited = self.request_timeout.as_secs_f32();
                    return Err(Failure::new(ErrorCode::RequestTimeout, format!("no answer to {endpoint} within {waited} s"))
                        .hint("`amphi doctor` looks for the cause; --request-timeout D waits longer"));
                }
            };
            if Instant::now() + pause >= until {
                return Err(failure);
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Sends what is recognised by `id` and therefore safe to send again, until it is answered or `deadline` is over.
    pub async fn call_until(&self, endpoint: &str, body: &Value, id: &str, deadline: Instant) -> Result<Value, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(subjects::MESSAGE_ID_HEADER, id);
        let mut pause = RETRY_PAUSE;
        loop {
            let failure = match self.ask(endpoint, body, Some(&headers)).await {
                Answer::Reply(reply) => return Ok(reply),
                Answer::Broken(failure) => return Err(failure),
                Answer::Refused(error) if !error.retryable => return Err(error.into()),
                Answer::Refused(error) => error.into(),
                Answer::Nobody => no_leader(),
                Answer::Silence => Failure::new(ErrorCode::ClusterUnreachable, "no answer; it may have been taken"),
            };
            if Instant::now() + pause >= deadline {
                return Err(failure.hint(format!("sending it again with --id {id} is safe")));
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    async fn ask(&self, endpoint: &str, body: &Value, headers: Option<&HeaderMap>) -> Answer {
        let subject = format!("{}.{endpoint}", subjects::API_GROUP);
        let mut request = async_nats::Request::new().payload(body.to_string().into()).timeout(Some(self.request_timeout));
        if let Some(headers) = headers {
            request = request.headers(headers.clone());
        }
        let mut denied = self.denied.clone();
        let quoted = format!("\"{subject}\"");
        let answer = tokio::select! {
            answer = self.nats.send_request(subject, request) => answer,
            Ok(_) = denied.wait_for(|said| said.contains(&quoted)) => {
                return Answer::Refused(
                    ApiError::new(ErrorCode::PolicyDenied, format!("the NATS server denies this user {endpoint}"))
                        .hint("log in as a user that may: --nats URL; `users.json` in the folder nats/ of the data folder has those of a managed server"),
                );
            }
        };
        let message = match answer {
            Ok(message) => message,
            Err(error) => {
                return match error.kind() {
                    RequestErrorKind::NoResponders => Answer::Nobody,
                    RequestErrorKind::TimedOut => Answer::Silence,
                    RequestErrorKind::MaxPayloadExceeded => Answer::Broken(Failure::new(
                        ErrorCode::RequestTooLarge,
                        format!("the request is larger than the server's max_payload of {} bytes", self.nats.max_payload()),
                    )),
                    RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                        tracing::debug!(?error, endpoint, "request");
                        Answer::Silence
                    }
                };
            }
        };
        let status =
            message.headers.as_ref().and_then(|headers| headers.get(subjects::ERROR_CODE_HEADER)).map(|code| code.as_str().to_owned());
        match serde_json::from_slice::<Value>(&message.payload) {
            Ok(reply) => refusal(&reply, status.as_deref()).map_or(Answer::Reply(reply), Answer::Refused),
            Err(_) => Answer::Broken(Failure::new(ErrorCode::Internal, format!("the answer to {endpoint} is not JSON"))),
        }
    }

    /// All pages of a list, joined: `field` holds the items. Stops at `limit` items; `next` then tells that there are more.
    pub async fn list(&self, endpoint: &str, field: &str, request: Value, limit: Option<usize>) -> Result<Value, Failure> {
        let mut request = request;
        let mut all: Vec<Value> = Vec::new();
        loop {
            let wanted = limit.map_or(PAGE, |limit| PAGE.min(limit - all.len()));
            request["limit"] = wanted.into();
            let mut reply = self.call(endpoint, &request).await?;
            let page = reply[field].as_array_mut().map(std::mem::take).unwrap_or_default();
            let empty = page.is_empty();
            all.extend(page);
            let next = reply["next"].take();
            // A server that gives the same place again would be asked for ever.
            if next.is_null() || empty || next == request["after"] || limit.is_some_and(|limit| all.len() >= limit) {
                reply[field] = all.into();
                reply["next"] = next;
                return Ok(reply);
            }
            request["after"] = next;
        }
    }
}

/// Items per request of a list.
const PAGE: usize = 1000;

fn unreachable(shown: &str, origin: &str) -> Failure {
    Failure::new(ErrorCode::ClusterUnreachable, format!("no NATS server answers at {shown} (from {origin})"))
        .hint("is `amphi up` running? `amphi doctor` looks for the cause; trying again is safe")
}

fn no_leader() -> Failure {
    Failure::new(ErrorCode::ClusterNoLeader, "no node of the cluster answers").hint("is `amphi up` running? trying again is safe")
}

/// The error in a reply, also one whose code this build does not know.
fn refusal(reply: &Value, status: Option<&str>) -> Option<ApiError> {
    let error = reply.get("error")?;
    // An object may have a field `error` of its own (a task has); a refusal has a code in it, or says so in its headers.
    let code = error.get("code").and_then(Value::as_str);
    if status.is_none() && code.is_none() {
        return None;
    }
    Some(serde_json::from_value(error.clone()).unwrap_or_else(|_| {
        let kind = match status {
            Some("400" | "413") => ErrorCode::RequestInvalid,
            Some("403") => ErrorCode::PolicyDenied,
            Some("404") => ErrorCode::EpicNotFound,
            Some("409") => ErrorCode::StateConflict,
            Some("429" | "503") => ErrorCode::ClusterBusy,
            Some("504") => ErrorCode::RequestTimeout,
            _ => ErrorCode::Internal,
        };
        let message = error["message"].as_str().unwrap_or("the request was refused");
        let mut known = ApiError::new(kind, format!("{}: {message}", code.unwrap_or("unknown")));
        known.hint = error["hint"].as_str().map(str::to_owned);
        known
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_are_never_shown() {
        assert_eq!(redacted("nats://me:secret@127.0.0.1:4222"), "nats://***@127.0.0.1:4222");
        assert_eq!(redacted("nats://a:b@h:1,nats://c@d:2"), "nats://***@h:1,nats://***@d:2");
        assert_eq!(redacted("127.0.0.1:4222"), "127.0.0.1:4222");
    }

    #[test]
    fn the_user_of_a_url_is_what_stands_before_its_password() {
        assert_eq!(credentials_user("nats://viewer:secret@h:1,nats://b:c@h:2"), Some("viewer"));
        assert_eq!(credentials_user("viewer:secret@h"), Some("viewer"));
        for without in ["nats://h:1", "nats://token@h:1", ""] {
            assert_eq!(credentials_user(without), None, "{without}");
        }
    }

    #[test]
    fn a_task_with_an_error_is_no_refusal() {
        assert!(refusal(&json!({"task": "t", "error": "exit 3"}), None).is_none());
        assert!(refusal(&json!({"task": "t", "error": null}), None).is_none());
    }

    #[test]
    fn a_code_of_a_newer_server_keeps_its_meaning() {
        let reply = json!({"error": {"code": "vault.sealed", "message": "later", "retryable": true}});
        let error = refusal(&reply, Some("503")).expect("a refusal");
        assert_eq!((error.code.exit_code(), error.retryable), (6, true));
        assert!(error.message.contains("vault.sealed"));
    }

    #[test]
    fn a_folder_without_a_cluster_is_exit_6_with_a_hint() {
        let dir = tempfile::tempdir().expect("a folder");
        let failure = read_ready(&dir.path().join(READY_FILE)).expect_err("nothing there");
        assert_eq!(failure.exit_code(), 6);
        assert!(failure.as_json().expect("text").contains("amphi up"));
    }
}
