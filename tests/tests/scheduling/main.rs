//! Who gets the next agent, and who does not: fairness between epics, held agents and nodes, pins, overlapping locks; sub-epics; and who leaves the
//! memory. On the core alone.
//!
//! Every step is checked against the laws, and each history ends with the second opinion of the checker.

mod admission;
mod assign;
mod drain;
mod fairness;
mod globs;
mod retiring;
mod stage;
mod sub_epics;
