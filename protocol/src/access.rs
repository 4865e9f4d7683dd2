//! What a client may ask for, by the role of its user: one table for the servers' permissions and for the gateway's own check.
//!
//! Never says who somebody is: that is the NATS user, and the server says it. A verb that is not named here is for admins.

use std::fmt;

/// The role of a client's user. Each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Reads everything, changes nothing.
    Viewer,
    /// Submits epics and steers them and their tasks; takes outside locks; sends messages and signals.
    Submitter,
    /// Decides gates and answers questions.
    Approver,
    /// Everything.
    Admin,
}

/// What viewers may ask besides every `*.list` and `*.get`.
pub const VIEWER_VERBS: [&str; 8] =
    ["epic.events", "epic.export", "epic.verify", "epic.report", "epic.validate", "epic.plan", "task.why", "task.logs"];
/// What submitters may ask besides.
pub const SUBMITTER_VERBS: [&str; 12] = [
    "epic.submit",
    "epic.cancel",
    "epic.pause",
    "epic.resume",
    "epic.retry",
    "task.cancel",
    "task.retry",
    "task.skip",
    "task.assign",
    "lock.acquire",
    "lock.renew",
    "lock.release",
];
/// What approvers may ask besides.
pub const APPROVER_VERBS: [&str; 2] = ["gate.decide", "question.answer"];
/// What only admins may ask; other verbs that no table names are theirs as well.
pub const ADMIN_VERBS: [&str; 10] = [
    "agent.pause",
    "agent.resume",
    "agent.restart",
    "agent.drain",
    "node.join",
    "node.revoke",
    "node.drain",
    "incident.ack",
    "incident.resolve",
    "cluster.>",
];

impl Access {
    /// All, from the least to the most.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Submitter, Self::Approver, Self::Admin];

    /// Its name, which is also the user that has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }

    /// The access of a user by its name: `viewer`, or `viewer-` and a name. `None`: a name that says nothing; what such a user may do is
    /// the server's permissions alone.
    pub fn of_user(user: &str) -> Option<Self> {
        let role = user.split_once('-').map_or(user, |(role, _)| role);
        Self::ALL.into_iter().find(|access| access.as_str() == role)
    }

    /// The least that may ask `verb` (`epic.submit`).
    pub fn needed_for(verb: &str) -> Self {
        let reads = verb.split_once('.').is_some_and(|(_, what)| matches!(what, "list" | "get"));
        if reads || VIEWER_VERBS.contains(&verb) {
            Self::Viewer
        } else if SUBMITTER_VERBS.contains(&verb) {
            Self::Submitter
        } else if APPROVER_VERBS.contains(&verb) {
            Self::Approver
        } else {
            Self::Admin
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_what_the_ones_below_it_may_and_unknown_verbs_are_for_admins() {
        for (verb, least) in [
            ("epic.list", Access::Viewer),
            ("gate.list", Access::Viewer),
            ("task.logs", Access::Viewer),
            ("epic.submit", Access::Submitter),
            ("task.assign", Access::Submitter),
            ("gate.decide", Access::Approver),
            ("question.answer", Access::Approver),
            ("node.drain", Access::Admin),
            ("no.such", Access::Admin),
            ("list", Access::Admin),
        ] {
            assert_eq!(Access::needed_for(verb), least, "{verb}");
        }
        assert!(ADMIN_VERBS.iter().all(|verb| Access::needed_for(verb) == Access::Admin));
        assert!(Access::Viewer < Access::Submitter && Access::Submitter < Access::Approver && Access::Approver < Access::Admin);
    }

    #[test]
    fn a_user_s_name_tells_its_access_or_nothing() {
        assert_eq!(Access::of_user("viewer"), Some(Access::Viewer));
        assert_eq!(Access::of_user("approver-anna"), Some(Access::Approver));
        for unknown in ["", "amphi", "viewers", "node-1", "Admin"] {
            assert_eq!(Access::of_user(unknown), None, "{unknown}");
        }
    }
}
