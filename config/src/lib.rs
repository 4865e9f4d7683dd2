//! amphi-config.
