//! amphi-agents.
