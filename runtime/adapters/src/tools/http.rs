//! The HTTP client that tools share.

use std::error::Error;
use std::sync::OnceLock;

use reqwest::Url;

/// One client for all tools: it holds the trusted certificates and the connections. It follows no redirects: those are answers.
pub(super) fn client() -> Result<reqwest::Client, String> {
    static CLIENT: OnceLock<Result<reqwest::Client, String>> = OnceLock::new();
    CLIENT
        .get_or_init(|| {
            // An error means that somebody else installed one, which serves as well.
            rustls::crypto::ring::default_provider().install_default().ok();
            let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).user_agent("amphi");
            builder.build().map_err(|error| format!("no HTTP client can be made: {}", innermost(&error)))
        })
        .clone()
}

/// Reads an http or https URL; the error is for people.
pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("`{text}` is no URL: {error}"))?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err(format!("`{text}` is no http or https URL")) }
}

/// The last cause says what happened; the others say that something happened.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
