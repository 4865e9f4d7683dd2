//! JSON Schemas of what users write and read, for editors and other programs. The compiler, not the schema, has the last word; tests
//! hold the two together.

/// The epic document.
pub const EPIC: &str = include_str!("../schema/epic-v1.json");
/// A public event.
pub const EVENT: &str = include_str!("../schema/event-v1.json");
