//! amphi-tests.
