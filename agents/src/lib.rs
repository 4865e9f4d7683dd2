//! The actors that do and account for work: the node's [`desk`], the generic [`specialist`] and what lies between them and the leader.
//!
//! Nothing here decides what is to be done (that is the coordination core) or who lives (that is the supervisors). No handler waits
//! for the world: jobs, requests and timers run as owned tasks and report back as messages.
//!
//! Start at [`desk::Desk`] for a node's side of the conversation with its Manager, at [`specialist::Specialist`] for one agent.

pub mod desk;
pub mod failpoint;
pub mod inboxes;
pub mod jobs;
pub mod link;
pub mod mail;
pub mod manager;
pub mod outbox;
pub mod registry;
pub mod role;
pub mod specialist;

pub use desk::{Desk, DeskArguments, DeskHandle, DeskLedger, DeskMessage, DeskSettings, DeskSnapshot, Uptime};
pub use inboxes::Inboxes;
pub use jobs::Jobs;
pub use link::{BusLeaderLink, LeaderLink, LeaderReply, LinkError, Verdict};
pub use manager::{Manager, ManagerArguments, ManagerHandle};
pub use registry::AgentRegistry;
pub use role::RoleProfile;
pub use specialist::{Specialist, SpecialistArguments, SpecialistMessage};
