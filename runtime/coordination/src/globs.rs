//! The lock names in use that are globs, found by the text before their first mark.
//!
//! Two names can only share a path if the literal start of one begins with that of the other. So a name asks for the globs whose start
//! is a start of its own: a handful, however many globs and names a project uses. Never decides whether names overlap.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amphi_protocol::ids::{ProjectId, Resource};
use amphi_protocol::overlap;
use serde::{Deserialize, Serialize};

use crate::locks::ResourceKey;

/// Where a glob counts, and its literal start.
type Start = (ProjectId, Option<Arc<str>>, String);

/// Globs by their start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Globs {
    #[serde(with = "crate::snapshot::pairs")]
    by_start: BTreeMap<Start, BTreeSet<Resource>>,
}

impl Globs {
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// A name is in use; does nothing unless it is a glob.
    pub fn insert(&mut self, key: &ResourceKey) {
        if overlap::is_glob(key.resource.as_str()) {
            self.by_start.entry(start_of(key)).or_default().insert(key.resource.clone());
        }
    }

    /// A name is not in use any more.
    pub fn remove(&mut self, key: &ResourceKey) {
        if !overlap::is_glob(key.resource.as_str()) {
            return;
        }
        let start = start_of(key);
        if let Some(there) = self.by_start.get_mut(&start) {
            there.remove(&key.resource);
            if there.is_empty() {
                self.by_start.remove(&start);
            }
        }
    }

    /// The globs of the same space whose start is a start of the name's own literal start; the name itself may be among them. Each step
    /// finds some, or gives up what the name does not share with its nearest neighbour: at most as many steps as it has letters.
    pub fn above(&self, key: &ResourceKey) -> Vec<&Resource> {
        let mut found = Vec::new();
        if self.is_empty() {
            return found;
        }
        let mut at = start_of(key);
        while let Some((start, globs)) = self.by_start.range(..=&at).next_back() {
            if (&start.0, &start.1) != (&at.0, &at.1) {
                break;
            }
            let shared = shared_start(&start.2, &at.2);
            if shared == start.2.len() {
                found.extend(globs);
                at.2.truncate(shared);
                if at.2.pop().is_none() {
                    break;
                }
            } else {
                at.2.truncate(shared);
            }
        }
        found
    }
}

fn start_of(key: &ResourceKey) -> Start {
    (key.project.clone(), key.folder.clone(), overlap::literal_prefix(key.resource.as_str()).to_owned())
}

/// How many bytes both texts begin with, whole characters only.
fn shared_start(one: &str, other: &str) -> usize {
    let same = one.chars().zip(other.chars()).take_while(|(one, other)| one == other);
    same.map(|(c, _)| c.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ResourceKey {
        let project = ProjectId::parse("p").expect("a valid project");
        ResourceKey { project, folder: None, resource: Resource::parse(name).expect("a valid resource") }
    }

    fn globs(names: &[&str]) -> Globs {
        let mut globs = Globs::default();
        names.iter().for_each(|name| globs.insert(&key(name)));
        globs
    }

    #[test]
    fn a_name_finds_the_globs_that_begin_as_it_does_and_no_others() {
        let globs = globs(&["file/*", "file/a/*", "file/a/b*", "file/ab/*", "file/é?", "file/a/b/**", "file/a/[xy]z"]);
        let above = |name: &str| globs.above(&key(name)).iter().map(|glob| glob.to_string()).collect::<Vec<_>>();
        assert_eq!(above("file/a/b"), ["file/a/b*", "file/a/b/**", "file/a/*", "file/a/[xy]z", "file/*"]);
        assert_eq!(above("file/ab/**"), ["file/*"], "a glob finds those of shorter starts");
        assert_eq!(above("file/éa"), ["file/é?", "file/*"]);
        assert_eq!(above("file/c/d"), ["file/*"]);
        assert!(above("db").is_empty());
        let elsewhere = ResourceKey { folder: Some("/w".into()), ..key("file/a/b") };
        assert!(globs.above(&elsewhere).is_empty());
    }

    #[test]
    fn ten_thousand_globs_beside_the_name_are_not_looked_at() {
        let mut globs = globs(&[]);
        let parts: Vec<ResourceKey> = (0..10_000).map(|part| key(&format!("file/part-{part}/**"))).collect();
        parts.iter().for_each(|part| globs.insert(part));
        assert_eq!(globs.above(&key("file/part-77/a.rs")).len(), 2, "part-7 and part-77");
        parts.iter().for_each(|part| globs.remove(part));
        assert!(globs.is_empty());
    }
}
