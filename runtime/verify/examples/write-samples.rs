//! Writes the sample journals anew: `cargo run -p amphi-verify --example write-samples`. Only for an intended change of the format.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../protocol/samples");
    for folder in ["journals", "violations"] {
        std::fs::create_dir_all(samples.join(folder))?;
    }
    for (name, journal) in support::good::all() {
        std::fs::write(samples.join(format!("journals/{name}.ndjson")), journal.lines().join("\n") + "\n")?;
    }
    for (law, slug, journal) in support::violations::all() {
        std::fs::write(samples.join(format!("violations/{}-{slug}.ndjson", law.as_str())), journal.lines().join("\n") + "\n")?;
    }
    Ok(())
}
