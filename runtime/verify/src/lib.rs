//! The checker behind `amphi epic verify`: reads an exported journal and says of every law whether it held.
//!
//! It is a second opinion. It shares only the protocol with the core, models what the records mean by itself, and must never call
//! or copy the core, or both would be wrong in the same place. It does no I/O, and no input makes it panic: what is no journal is a
//! [`VerifyError`] with its line, what is a journal that breaks a law is a [`Verdict`].
//!
//! Where the interface leaves room, it says nothing: a law counts as violated only if no reading of the journal satisfies it.
//! Memory grows with the epics that a journal holds, not with its records.
//!
//! Start at [`check_lines`]; [`Checker`] is the same for who reads line by line.

mod chain;
mod changes;
mod checker;
mod children;
mod cluster;
mod decisions;
mod effects;
mod export;
mod grants;
mod locks;
mod model;
mod outside;
mod pins;
mod reports;
mod spec;
mod undo;
mod upkeep;
mod verdict;

pub use checker::{Checker, VerifyError, check_lines};
pub use export::{EXPORT_VERSION, ExportHeader, ExportLine, LineFault};
pub use verdict::{EVIDENCE_MAX, Law, LawResult, LawVerdict, Verdict};
