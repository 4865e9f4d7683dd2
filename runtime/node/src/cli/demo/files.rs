//! The files of `examples/shop`, which are part of the program, so that whoever has the binary has the demo.

use std::fs;
use std::io;
use std::path::Path;

/// `(path below the shop, content)`; `build.rs` writes the list.
const FILES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/shop_files.rs"));

/// Writes all of them below `folder`.
pub(super) fn unpack(folder: &Path) -> io::Result<()> {
    for (name, content) in FILES {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_embedded_is_what_the_repository_tracks() {
        let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
        let listed = std::process::Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .arg(&shop)
            .current_dir(&shop)
            .output();
        let Some(listed) = listed.ok().filter(|listed| listed.status.success() && !listed.stdout.is_empty()) else {
            return; // an unpacked archive has no index to compare with
        };
        let names = listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let tracked: BTreeMap<String, Vec<u8>> = names
            .map(|name| String::from_utf8(name.to_vec()).expect("our names are text"))
            .filter_map(|name| fs::read(shop.join(&name)).ok().map(|content| (name, content)))
            .collect();
        let embedded: BTreeMap<String, Vec<u8>> = FILES.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        assert_eq!(tracked.keys().collect::<Vec<_>>(), embedded.keys().collect::<Vec<_>>());
        assert!(tracked == embedded, "a file was changed after the program was built");
    }

    #[test]
    fn the_epic_of_the_shop_is_valid_and_has_the_tasks_of_the_release() {
        let text = FILES.iter().find(|(name, _)| *name == "release.epic.yaml").expect("the epic is there").1;
        let text = std::str::from_utf8(text).expect("it is text").to_owned();
        let document =
            crate::cli::epic_file::Document { name: "release.epic.yaml".into(), text, base: "/shop".into(), files: Default::default() };
        let inputs = ["version=2.0.0".to_owned()];
        let compiled = crate::cli::epic_file::check(&document, &inputs, true, None).expect("it can be checked");
        let spec = compiled.spec.unwrap_or_else(|| panic!("{:?}", compiled.problems));
        let mut names: Vec<String> = spec.tasks.iter().map(|task| task.name.to_string()).collect();
        names.sort();
        let mut wanted: Vec<&str> = crate::cli::demo::TASKS.concat();
        wanted.sort_unstable();
        assert_eq!(names, wanted);
    }
}
