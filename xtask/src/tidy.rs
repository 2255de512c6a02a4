//! Rules that no compiler checks: which crate may use which, files that nobody includes, calls that have a better
//! replacement, words that mean unfinished work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::command::{cargo, output, root};

/// Texts that must not stand in Rust sources, with what to do instead. A line may be excused by `tidy: allow` and a
/// reason in a comment on it.
const BANNED: &[(&str, &str)] = &[
    ("#[ignore", "make the test run, or print a skip with its reason"),
    (concat!("TO", "DO"), "do it, or leave it to an issue"),
    (concat!("FIX", "ME"), "fix it, or leave it to an issue"),
    ("unbounded_channel(", "use a bounded channel and name the bound"),
];

/// Crates that may hold `unsafe` everywhere; all others forbid it or deny it with named exceptions.
const UNSAFE_CRATES: &[&str] = &["kvm", "ptrace"];

/// Runs every check and lists all violations at once.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut violations = Vec::new();
    check_crate_edges(&mut violations)?;
    for source in rust_sources()? {
        let text = std::fs::read_to_string(&source)?;
        let shown = source.strip_prefix(root())?.display().to_string();
        check_text(&shown, &text, &mut violations);
        check_is_included(&source, &shown, &mut violations)?;
    }
    check_unsafe_rule(&mut violations)?;
    if violations.is_empty() {
        return Ok(());
    }
    bail!("{} violations:\n  {}", violations.len(), violations.join("\n  "))
}

/// Dependencies among our crates must be those of the table in ARCHITECTURE.md.
fn check_crate_edges(violations: &mut Vec<String>) -> anyhow::Result<()> {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let allowed = parse_crate_table(&architecture);
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--no-deps", "--offline"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    for package in metadata["packages"].as_array().context("no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(name) = name.strip_prefix("calypte-").or((name == "calypte").then_some(name)) else { continue };
        let Some(uses) = allowed.get(name) else {
            violations.push(format!("crate {name} is not in the table of ARCHITECTURE.md"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(used) = dependency["name"].as_str().and_then(|used| used.strip_prefix("calypte-")) else {
                continue;
            };
            let is_dev = dependency["kind"].as_str() == Some("dev");
            if !is_dev && used != "types" && !uses.contains(used) {
                violations.push(format!("crate {name} may not use {used} (table in ARCHITECTURE.md)"));
            }
        }
    }
    Ok(())
}

/// Rows `| `crate` | purpose | uses |` of the crate table: name to allowed dependencies.
fn parse_crate_table(architecture: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut table = BTreeMap::new();
    for line in architecture.lines() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, uses] = cells.as_slice() else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        let uses = uses.split(',').map(|used| used.trim().trim_matches('`').to_owned()).collect();
        table.insert(name.to_owned(), uses);
    }
    table
}

fn rust_sources() -> anyhow::Result<Vec<PathBuf>> {
    let listed = output(std::process::Command::new("git").args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
    ]))?;
    Ok(listed.lines().map(|line| root().join(line)).filter(|path| path.is_file()).collect())
}

fn check_text(shown: &str, text: &str, violations: &mut Vec<String>) {
    if shown == "xtask/src/tidy.rs" {
        return;
    }
    for (index, line) in text.lines().enumerate() {
        for (banned, instead) in BANNED {
            if line.contains(banned) && !line.contains("tidy: allow") {
                violations.push(format!("{shown}:{}: {banned}: {instead}", index + 1));
            }
        }
    }
}

/// A module file must be named by a `mod` line of its crate.
fn check_is_included(source: &Path, shown: &str, violations: &mut Vec<String>) -> anyhow::Result<()> {
    let Some(crate_folder) = source.ancestors().find(|folder| folder.join("Cargo.toml").is_file()) else {
        return Ok(());
    };
    let in_crate = source.strip_prefix(crate_folder)?;
    let stem = source.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let is_top_level = in_crate.components().count() <= 2 && !in_crate.starts_with("src");
    let is_target = is_top_level || in_crate.starts_with("src/bin") || matches!(stem, "lib" | "main");
    if is_target {
        return Ok(());
    }
    let module = if stem == "mod" {
        source.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default()
    } else {
        stem
    };
    let declaration = format!("mod {module};");
    let includes = |path: PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains(&declaration));
    let folder = if stem == "mod" { source.parent().and_then(Path::parent) } else { source.parent() };
    let folder = folder.unwrap_or(crate_folder);
    let folder_module = folder.with_extension("rs");
    let mut candidates = vec![folder.join("lib.rs"), folder.join("main.rs"), folder.join("mod.rs"), folder_module];
    candidates.extend(std::fs::read_dir(folder)?.filter_map(|entry| entry.ok().map(|entry| entry.path())));
    if !candidates.into_iter().any(includes) {
        violations.push(format!("{shown}: no `mod {module};` includes this file"));
    }
    Ok(())
}

fn check_unsafe_rule(violations: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(root().join("crates"))? {
        let folder = entry?.path();
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let entry_point =
            ["src/lib.rs", "src/main.rs"].iter().map(|file| folder.join(file)).find(|file| file.is_file());
        let Some(entry_point) = entry_point else { continue };
        let text = std::fs::read_to_string(entry_point)?;
        let is_walled = text.contains("#![forbid(unsafe_code)]") || text.contains("#![deny(unsafe_code)]");
        if !is_walled && !UNSAFE_CRATES.contains(&name.as_str()) {
            violations.push(format!("crate {name} neither forbids nor denies unsafe code"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_table_is_read() {
        let table = parse_crate_table(
            "| crate | purpose | uses |\n|---|---|---|\n| `kvm` | runs | platform |\n| `types` | ids | – |\n",
        );
        assert!(table["kvm"].contains("platform"));
        assert!(!table["types"].contains("platform"));
    }

    #[test]
    fn banned_texts_are_found_and_excuses_accepted() {
        let mut violations = Vec::new();
        check_text("a.rs", "#[ignore]\nunbounded_channel() // tidy: allow, bounded by its sender\n", &mut violations);
        assert_eq!(violations.len(), 1);
    }
}
