//! amphi-adapters.
