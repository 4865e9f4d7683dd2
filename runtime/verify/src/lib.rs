//! amphi-verify.
