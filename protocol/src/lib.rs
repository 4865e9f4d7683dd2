//! Every type that leaves a process or is stored: ids, the epic document, journal records, node traffic, agent messages,
//! events, replies, subjects and codecs.
//!
//! This crate decides nothing and does no I/O. A type here is a contract: it has a golden sample in `protocol/samples`, and it
//! changes only by addition. Stored things are self-describing JSON with a schema number; bincode is for live traffic only.
//!
//! Start at [`journal::Record`] (what is remembered), [`document::EpicSpec`] (what is asked for) and [`event::Event`] (what is seen).

pub mod access;
pub mod api;
pub mod codec;
pub mod document;
pub mod event;
pub mod expression;
pub mod graph;
pub mod ids;
pub mod journal;
pub mod message;
pub mod node;
pub mod overlap;
pub mod report;
pub mod schema;
pub mod subjects;
pub mod tree;
pub mod view;

/// The number of the wire protocol; it changes when an old build could misread a new one.
pub const PROTOCOL: u32 = 1;
