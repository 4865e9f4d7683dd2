//! The house style, as far as a text search can hold it. Each rule says what is wrong, where, and why it matters.

use std::path::{Path, PathBuf};

/// Longest file outside tests.
const LINES_MAX: usize = 600;

/// Files that may be longer, up to so many lines, and why. The list only shrinks.
const LONG_FILES: [(&str, usize, &str); 0] = [];

/// Folders that hold nothing of ours.
const NOT_OURS: [&str; 6] = ["target", ".git", ".tools", ".venv", "__pycache__", "node_modules"];

/// Files whose text is searched for machine paths.
const TEXT: [&str; 13] = ["rs", "toml", "md", "sh", "py", "yaml", "yml", "json", "ndjson", "txt", "html", "proptest-regressions", "conf"];

/// What the core must not name. Time and randomness are arguments, its maps have an order, and it neither waits nor writes.
const CORE_MUST_NOT_NAME: [&str; 9] = ["HashMap", "HashSet", "async ", "tracing", "rand", "std::time", "SystemTime", "Instant", "println!"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository").to_owned()
}

/// All files of the repository, as paths from its top.
fn files() -> Vec<PathBuf> {
    let (root, mut found, mut folders) = (root(), Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the repository can be read").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !NOT_OURS.contains(&name.as_str()) => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path().strip_prefix(&root).expect("it was found below").to_owned()),
                // Links and what vanished meanwhile are nobody's source.
                Ok(_) | Err(_) => {}
            }
        }
    }
    found.sort();
    assert!(found.len() > 50, "only {} files were found: the test looks at nothing", found.len());
    found
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    files().into_iter().filter(is_rust).map(|path| (path.clone(), read(&path))).collect()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(root().join(path)).unwrap_or_default()).into_owned()
}

/// Tests are in folders or files of that name.
fn is_test(path: &Path) -> bool {
    let folder =
        path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches" || part.as_os_str() == "examples");
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    folder || stem == "tests" || stem.ends_with("_tests") || stem.starts_with("test_")
}

/// The lines of a source file before its test module, without comments, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let shipped = text.lines().take_while(|line| !line.trim_start().starts_with("#[cfg(test)]"));
    (1..).zip(shipped).map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
}

fn none(problems: Vec<String>, why: &str) {
    assert!(problems.is_empty(), "{why}:\n  {}", problems.join("\n  "));
}

/// True if `word` occurs in `line` as a word of its own.
fn names(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_none_or(|c| !is_part(c));
        let after = line[at + word.len()..].chars().next().is_none_or(|c| !is_part(c));
        before && (after || word.ends_with([' ', '!', '(']))
    })
}

#[test]
fn every_module_opens_by_saying_what_it_is_for() {
    let silent = rust_files().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path.display().to_string());
    none(silent.collect(), "a file begins with `//!`: what it is for and what it must never do");
}

#[test]
fn no_file_is_too_long_to_hold() {
    let mut problems = Vec::new();
    for (path, text) in rust_files().into_iter().filter(|(path, _)| !is_test(path)) {
        let lines = text.lines().count();
        let name = path.display().to_string();
        match LONG_FILES.iter().find(|(long, ..)| *long == name) {
            Some((_, bound, _)) if lines > *bound => problems.push(format!("{name} has {lines} lines, its exception allows {bound}")),
            Some(_) if lines <= LINES_MAX => problems.push(format!("{name} has {lines} lines: take it off the list of exceptions")),
            None if lines > LINES_MAX => problems.push(format!("{name} has {lines} lines")),
            Some(_) | None => {}
        }
    }
    for (long, ..) in LONG_FILES {
        if !root().join(long).is_file() {
            problems.push(format!("{long} is on the list of exceptions and does not exist"));
        }
    }
    none(problems, "a file outside tests has at most 600 lines; split it by meaning");
}

#[test]
fn the_core_is_pure() {
    let mut problems = Vec::new();
    let core = rust_files().into_iter().filter(|(path, _)| path.starts_with("runtime/coordination/src") && !is_test(path));
    for (path, text) in core {
        for (number, line) in code(&text) {
            let named = CORE_MUST_NOT_NAME.iter().filter(|word| names(line, word));
            problems.extend(named.map(|word| format!("{}:{number} names {}", path.display(), word.trim())));
        }
    }
    none(problems, "the core is a function of its arguments");
}

#[test]
fn nothing_outside_tests_unwraps() {
    let mut problems = Vec::new();
    for (path, text) in rust_files().into_iter().filter(|(path, _)| !is_test(path)) {
        let unwraps = code(&text).filter(|(_, line)| line.contains(concat!(".unwr", "ap()")));
        problems.extend(unwraps.map(|(number, _)| format!("{}:{number}", path.display())));
    }
    none(problems, "`expect` says why it cannot fail, `unwrap` does not");
}

#[test]
fn nothing_is_left_undone_or_left_out() {
    let marks = [concat!("to", "do!"), concat!("unimple", "mented!"), concat!("#[ig", "nore")];
    let mut problems = Vec::new();
    for (path, text) in rust_files() {
        for (number, line) in (1..).zip(text.lines()) {
            problems.extend(marks.iter().filter(|mark| line.contains(**mark)).map(|mark| format!("{}:{number} {mark}", path.display())));
        }
    }
    none(problems, "what is in the repository works and is tested");
}

#[test]
fn no_path_of_a_machine_is_in_the_repository() {
    let machine = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let searched = |path: &PathBuf| {
        let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
        extension.is_none_or(|extension| TEXT.contains(&extension.as_str()))
    };
    let mut problems = Vec::new();
    for path in files().into_iter().filter(searched) {
        for (number, line) in (1..).zip(read(&path).lines()) {
            // Below a folder of ours it is a name like any other; at the start of a path it is somebody's machine.
            let is_root = |at: usize| line[..at].chars().next_back().is_none_or(|c| !c.is_ascii_alphanumeric() && !"_-.}$~".contains(c));
            let found = machine.iter().any(|start| line.match_indices(start).any(|(at, _)| is_root(at)));
            if found {
                problems.push(format!("{}:{number} {}", path.display(), line.trim()));
            }
        }
    }
    none(problems, "it has to work in every folder of every machine");
}

#[test]
fn the_code_map_of_the_readme_names_every_folder_and_every_crate() {
    let readme = read(Path::new("README.md"));
    let top = std::fs::read_dir(root()).expect("the repository can be read").flatten();
    let folders =
        top.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let folders = folders.filter(|name| !name.starts_with('.') && !NOT_OURS.contains(&name.as_str()));
    let crates = files().into_iter().filter(|path| path.ends_with("Cargo.toml")).filter_map(|path| {
        let folder = path.parent()?.to_string_lossy().into_owned();
        (!folder.is_empty() && !folder.starts_with("examples")).then_some(folder)
    });
    let missing: Vec<String> = folders.chain(crates).filter(|folder| !is_mapped(&readme, folder)).collect();
    none(missing, "a map of the code that misses a place is not one (README.md)");
}

/// Named as `folder` or `folder/`, in a line of its own or in running text, or as a part under its parent's line in a tree.
fn is_mapped(readme: &str, folder: &str) -> bool {
    let last = folder.rsplit('/').next().unwrap_or(folder);
    readme.lines().any(|line| {
        line.contains(&format!("{folder}/"))
            || line.contains(&format!("`{folder}`"))
            || line.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).starts_with(&format!("{last}/"))
    })
}
