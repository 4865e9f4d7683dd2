//! Tells the program which commit it was built from (`unknown` outside a git checkout), and puts the files of `examples/shop` into it, so
//! that `amphi demo` needs nothing but the program.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What running the shop in place leaves behind.
const NOT_OF_THE_SHOP: [&str; 5] = ["__pycache__", "var", "source", "source.new", "services.json"];

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// All files below `folder`, in order.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_ours = path.file_name().is_some_and(|name| NOT_OF_THE_SHOP.iter().all(|other| name != *other));
        if is_ours && path.is_dir() {
            found.extend(files(&path)?);
        } else if is_ours {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// `[(path below the shop, content), …]` as an expression in `shop_files.rs`.
fn embed_shop() -> io::Result<()> {
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop").canonicalize()?;
    println!("cargo:rerun-if-changed={}", shop.display());
    let mut list = String::from("[\n");
    for file in files(&shop)? {
        let name = file.strip_prefix(&shop).expect("it was found below");
        writeln!(list, "    ({name:?}, include_bytes!({file:?}).as_slice()),").expect("a string takes all");
    }
    list.push_str("]\n");
    let out = std::env::var_os("OUT_DIR").expect("cargo names it");
    fs::write(Path::new(&out).join("shop_files.rs"), list)
}

fn main() {
    embed_shop().expect("examples/shop can be read");
    println!("cargo:rerun-if-changed=build.rs");
    // The branch's own file changes with each commit; without it (packed refs) HEAD must do.
    for name in [Some("HEAD".to_owned()), git(&["symbolic-ref", "-q", "HEAD"])].into_iter().flatten() {
        if let Some(path) = git(&["rev-parse", "--git-path", &name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=AMPHI_COMMIT={commit}");
}
