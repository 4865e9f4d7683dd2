//! amphi-coordination.
