//! amphi-supervisors.
