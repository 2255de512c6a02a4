//! A real `calypte dev`, started for a task and stopped again.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::command::{cargo, output, run, target_folder};

/// Which optimisation the program is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build: the demo and the tests.
    Development,
    /// What is measured.
    Release,
}

/// Builds the program and says where it lies.
pub(crate) fn build(profile: Profile) -> anyhow::Result<PathBuf> {
    // As `cargo test --workspace` builds it, whose features of dependencies differ from those that a package alone asks
    // for: so the gate builds it once. What is measured is what is shipped.
    let (flags, folder): (&[&str], &str) = match profile {
        Profile::Development => (&["--workspace", "--bin", "calypte"], "debug"),
        Profile::Release => (&["--package", "calypte", "--release"], "release"),
    };
    run(cargo().arg("build").args(flags))?;
    Ok(target_folder()?.join(folder).join("calypte"))
}

/// A running server. Dropping it stops it as Ctrl-C would, and waits for its end.
pub(crate) struct Server {
    child: Child,
    /// The words that start the program, those that make it run as somebody else included.
    words: Vec<OsString>,
    /// Its data folder.
    pub(crate) data: PathBuf,
    /// What a client has to put in its environment.
    pub(crate) environment: Vec<(String, String)>,
}

impl Server {
    /// Starts `program dev` on a data folder and waits until it answers. `wrapper` goes before the program, to run it
    /// as somebody else.
    pub(crate) fn start(wrapper: &[String], program: &Path, data: &Path, port: u16) -> anyhow::Result<Self> {
        let words: Vec<OsString> = wrapper.iter().map(OsString::from).chain([program.into()]).collect();
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args(["dev", "--json", "--port", &port.to_string(), "--data"])
            .arg(data)
            .env("CALYPTE_LOG", std::env::var_os("CALYPTE_LOG").unwrap_or_else(|| "warn".into()))
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut first_line = String::new();
        let stdout = child.stdout.take().context("the server's output")?;
        BufReader::new(stdout).read_line(&mut first_line)?;
        if first_line.trim().is_empty() {
            bail!("the server ended before it was ready: {}; its messages are above", child.wait()?);
        }
        let ready: Value = serde_json::from_str(&first_line).with_context(|| format!("not JSON: {first_line}"))?;
        let text = |name: &str| ready[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {ready}"));
        let environment = vec![
            ("AWS_ENDPOINT_URL_LAMBDA".to_owned(), text("endpoint")?),
            ("AWS_ACCESS_KEY_ID".to_owned(), text("access_key_id")?),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), text("secret_access_key")?),
            ("AWS_REGION".to_owned(), text("region")?),
            ("AWS_DEFAULT_REGION".to_owned(), text("region")?),
        ];
        Ok(Self { child, words, data: data.to_owned(), environment })
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs the command line against this server and gives what it prints.
    pub(crate) fn calypte(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(Command::new(&self.words[0]).args(&self.words[1..]).args(arguments).arg("--data").arg(&self.data))
    }

    /// The newest Python runtime that the server found on this host.
    pub(crate) fn newest_python(&self) -> anyhow::Result<Option<String>> {
        let listed: Value = serde_json::from_str(&self.calypte(&["runtime", "ls", "--json"])?)?;
        let names = listed.as_array().into_iter().flatten().filter_map(|runtime| runtime["name"].as_str());
        let minor = |name: &str| name.strip_prefix("python3.").and_then(|minor| minor.parse::<u32>().ok());
        Ok(names.filter(|name| minor(name).is_some()).max_by_key(|name| minor(name)).map(str::to_owned))
    }

    /// All processes below the server, children before their own children.
    pub(crate) fn descendants(&self) -> anyhow::Result<Vec<u32>> {
        let parents = parents()?;
        let mut family = vec![self.pid()];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
            next += 1;
        }
        family.remove(0);
        Ok(family)
    }

    /// Waits until somebody ends it.
    pub(crate) fn wait(mut self) -> anyhow::Result<()> {
        self.child.wait()?;
        Ok(())
    }
}

/// Every process with its parent.
fn parents() -> anyhow::Result<Vec<(u32, u32)>> {
    let listed = output(Command::new("ps").args(["-e", "-o", "pid=,ppid="]))?;
    let pairs = listed.lines().filter_map(|line| {
        let mut words = line.split_whitespace().filter_map(|word| word.parse().ok());
        Some((words.next()?, words.next()?))
    });
    Ok(pairs.collect())
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = output(Command::new("kill").args(["-INT", &self.child.id().to_string()]));
        let _ = self.child.wait();
    }
}
