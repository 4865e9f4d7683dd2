//! Replies and errors of the public interface.

use serde::{Deserialize, Serialize};

/// An error as users see it, in every reply and on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Stable, for programs.
    pub code: ErrorCode,
    /// What failed.
    pub message: String,
    /// What to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The same request may succeed later.
    pub retryable: bool,
    /// What is wrong in a document, all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl ApiError {
    /// An error without hint or problems.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, retryable: code.is_retryable(), problems: Vec::new() }
    }

    /// Adds what to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// `{"error": …}`, the body of every refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

/// Something wrong in a document, with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file as the user named it, or null.
    pub file: Option<String>,
    /// From 1; 0 if there is no place.
    pub line: u32,
    /// From 1; 0 if there is no place.
    pub column: u32,
    /// Stable, for programs.
    pub code: ErrorCode,
    /// What is wrong.
    pub message: String,
    /// What to try.
    pub hint: Option<String>,
}

macro_rules! error_codes {
    ($($variant:ident = $text:literal, $status:literal;)*) => {
        /// Stable codes of errors.
        #[allow(missing_docs, reason = "each code is documented by its text")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $(#[serde(rename = $text)] $variant,)*
        }

        impl ErrorCode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// `epic.cycle`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The number in `Nats-Service-Error-Code`.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }
    };
}

error_codes! {
    EpicSyntax = "epic.syntax", 400;
    EpicUnknownKey = "epic.unknown_key", 400;
    EpicUnknownTask = "epic.unknown_task", 400;
    EpicCycle = "epic.cycle", 400;
    EpicType = "epic.type", 400;
    EpicLimit = "epic.limit", 413;
    EpicKindUnsupported = "epic.kind_unsupported", 400;
    RunUnsafeSubstitution = "run.unsafe_substitution", 400;
    RoleUnknown = "role.unknown", 400;
    ToolUnknown = "tool.unknown", 400;
    PolicyDenied = "policy.denied", 403;
    EpicNotFound = "epic.not_found", 404;
    TaskNotFound = "task.not_found", 404;
    AgentNotFound = "agent.not_found", 404;
    NodeNotFound = "node.not_found", 404;
    IncidentNotFound = "incident.not_found", 404;
    SubmitConflict = "submit.conflict", 409;
    StateConflict = "state.conflict", 409;
    GateChanged = "gate.changed", 409;
    RequestInvalid = "request.invalid", 400;
    RequestTooLarge = "request.too_large", 413;
    ConfigInvalid = "config.invalid", 400;
    ClusterNoLeader = "cluster.no_leader", 503;
    ClusterUnreachable = "cluster.unreachable", 503;
    ClusterBusy = "cluster.busy", 429;
    RequestTimeout = "request.timeout", 504;
    JournalDamaged = "journal.damaged", 503;
    BackupDamaged = "backup.damaged", 400;
    Internal = "internal", 500;
}

impl ErrorCode {
    /// The same request may succeed later.
    pub fn is_retryable(self) -> bool {
        matches!(self.status(), 429 | 503 | 504)
    }

    /// The exit code of the command line.
    pub fn exit_code(self) -> u8 {
        match self.status() {
            400 | 413 => 2,
            403 => 4,
            404 => 3,
            409 => 5,
            429 | 503 => 6,
            504 => 7,
            _ => 1,
        }
    }
}
