//! NATS contexts: how the `nats` command line remembers servers and logins. `--context NAME` uses one as it is.
//!
//! Files are `$XDG_CONFIG_HOME/nats/context/NAME.json`. Only read, never written, and nothing of a login is ever shown.

use std::path::{Path, PathBuf};

use amphi_config::Environment;
use amphi_protocol::api::ErrorCode;
use async_nats::ConnectOptions;
use serde::Deserialize;

use super::failure::Failure;

/// Where a server is that nobody names.
const URL_DEFAULT: &str = "nats://127.0.0.1:4222";
/// Names that a hint lists.
const NAMES_SHOWN_MAX: usize = 10;

/// A context, as far as it concerns a connection.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NatsContext {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    ca: String,
    cert: String,
    key: String,
}

/// The folder of all contexts.
fn folder(environment: &Environment) -> Option<PathBuf> {
    let home = || environment.get("HOME").map(|home| Path::new(home).join(".config"));
    Some(environment.get("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)?.join("nats/context"))
}

impl NatsContext {
    /// Reads the context of this name.
    pub fn load(name: &str, environment: &Environment) -> Result<Self, Failure> {
        let folder = folder(environment).ok_or_else(|| Failure::usage("there is no home folder, so there are no NATS contexts"))?;
        let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']) && !name.contains(char::is_control);
        let path = folder.join(format!("{name}.json"));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) if is_plain => text,
            Err(error) if is_plain && error.kind() != std::io::ErrorKind::NotFound => return Err(Failure::file("read", &path, &error)),
            Ok(_) | Err(_) => return Err(unknown(name, &folder)),
        };
        serde_json::from_str(&text).map_err(|error| {
            let what = format!("{} is no NATS context: line {}, column {}", path.display(), error.line(), error.column());
            Failure::usage(what).hint(format!("nats context edit {name}"))
        })
    }

    /// Its servers.
    pub fn url(&self) -> &str {
        if self.url.is_empty() { URL_DEFAULT } else { &self.url }
    }

    /// Adds its login and certificates to options.
    pub async fn log_in(&self, mut options: ConnectOptions, environment: &Environment) -> Result<ConnectOptions, Failure> {
        let path = |text: &str| match (text.strip_prefix("~/"), environment.get("HOME")) {
            (Some(rest), Some(home)) => Path::new(home).join(rest),
            _ => PathBuf::from(text),
        };
        if !self.creds.is_empty() {
            let path = path(&self.creds);
            let said = tokio::fs::read_to_string(&path).await.map_err(|error| Failure::file("read", &path, &error))?;
            options = options.credentials(&said).map_err(|_| Failure::usage(format!("{} holds no NATS credentials", path.display())))?;
        } else if !self.nkey.is_empty() {
            let path = path(&self.nkey);
            let seed = tokio::fs::read_to_string(&path).await.map_err(|error| Failure::file("read", &path, &error))?;
            options = options.nkey(seed.trim().to_owned());
        } else if !self.token.is_empty() {
            options = options.token(self.token.clone());
        } else if !self.user.is_empty() {
            options = options.user_and_password(self.user.clone(), self.password.clone());
        }
        if !self.ca.is_empty() {
            options = options.add_root_certificates(path(&self.ca));
        }
        if !self.cert.is_empty() {
            options = options.add_client_certificate(path(&self.cert), path(&self.key));
        }
        Ok(options)
    }
}

fn unknown(name: &str, folder: &Path) -> Failure {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
        .collect();
    names.sort();
    let more = if names.len() > NAMES_SHOWN_MAX { ", …" } else { "" };
    let hint = match &names[..] {
        [] => format!("there are none in {}; `nats context add` makes one", folder.display()),
        _ => format!("there are {}{more}", names[..names.len().min(NAMES_SHOWN_MAX)].join(", ")),
    };
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    Failure::new(ErrorCode::RequestInvalid, format!("there is no NATS context `{shown}`")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(folder: &Path) -> Environment {
        [("XDG_CONFIG_HOME", folder.to_str().expect("a path"))].into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn a_context_is_found_by_its_name_and_an_unknown_one_names_the_others() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("nats/context");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("prod.json"), r#"{"url": "nats://h:1", "user": "u", "password": "secret", "nsc": ""}"#)
            .expect("written");
        std::fs::write(folder.join("broken.json"), "{").expect("written");
        std::fs::write(folder.join("empty.json"), "{}").expect("written");
        let environment = environment(home.path());
        let found = NatsContext::load("prod", &environment).expect("it is there");
        assert_eq!((found.url(), &*found.user), ("nats://h:1", "u"));
        assert_eq!(NatsContext::load("empty", &environment).expect("it is there").url(), URL_DEFAULT);
        for (name, said) in
            [("prdo", "there are broken, empty, prod"), ("../prod", "there are broken"), ("", "there are"), ("broken", "line 1")]
        {
            let failure = NatsContext::load(name, &environment).expect_err("refused");
            let text = failure.as_json().expect("text");
            assert!(failure.exit_code() == 2 && text.contains(said) && !text.contains("secret"), "{name}: {text}");
        }
    }
}
