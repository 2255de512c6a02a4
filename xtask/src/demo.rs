//! `cargo xtask demo`: from nothing to the printed result of a real function, then a running system.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;

use crate::command::{self, find, output, root};
use crate::gate::Outcome;
use crate::server::{self, Profile, Server};
use crate::setup;

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct Options {
    /// Port of the API.
    #[arg(long, default_value_t = 7070)]
    port: u16,
    /// Stop after the result instead of waiting for Ctrl-C.
    #[arg(long)]
    once: bool,
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!("Building Calypte (the first time takes some minutes) …");
    let program = server::build(Profile::Development)?;
    let data = command::target_folder()?.join("demo");
    // Ctrl-C goes to the server as well, which ends cleanly; this process waits for it.
    ctrlc::set_handler(|| {}).context("cannot handle Ctrl-C")?;
    let server = Server::start(&[], &program, &data, options.port)?;
    let example = show(&server)?;
    print_next_steps(&program, &server, &example);
    if options.once {
        return Ok(());
    }
    println!("\nThe system runs until Ctrl-C.");
    server.wait()
}

/// The demo's function.
const FUNCTION: &str = "demo";

/// An example that this host can run: its folder, runtime, handler and what to call it with.
struct Example {
    folder: PathBuf,
    runtime: String,
    handler: &'static str,
    event: String,
    /// A short event to try next.
    next_event: &'static str,
    /// Arguments of a `calypte run` to try next.
    next_run: &'static str,
}

/// Deploys an example, calls it, prints what came back and what it logged.
fn show(server: &Server) -> anyhow::Result<Example> {
    let example = choose_example(server)?;
    println!("\nDeploying {} as function `{FUNCTION}` on {} …", example.folder.display(), example.runtime);
    let folder = example.folder.to_string_lossy();
    let configuration = ["--name", FUNCTION, "--runtime", &example.runtime, "--handler", example.handler];
    print!("{}", server.calypte(&[&["deploy", &folder], configuration.as_slice()].concat())?);
    println!("\nCalling it …");
    println!("{}", server.calypte(&["invoke", FUNCTION, &example.event])?.trim_end());
    println!("\nWhat it logged:");
    print!("{}", server.calypte(&["logs", FUNCTION])?);
    Ok(example)
}

/// The Python example if a Python was found on this host, the Rust example otherwise.
fn choose_example(server: &Server) -> anyhow::Result<Example> {
    if let Some(runtime) = server.newest_python()? {
        let text = std::fs::read_to_string(root().join("README.md"))?;
        return Ok(Example {
            folder: root().join("examples/word-count"),
            runtime,
            handler: "handler.handler",
            event: serde_json::json!({ "text": text }).to_string(),
            next_event: r#"{"text": "to be or not to be"}"#,
            next_run: r#"-- python3 -c 'print("hello from a microVM")'"#,
        });
    }
    println!("No Python was found on this host, so the demo deploys the Rust example instead.");
    Ok(Example {
        folder: build_rust_example()?,
        runtime: "provided.al2023".to_owned(),
        handler: "bootstrap",
        event: serde_json::json!({ "name": "Calypte" }).to_string(),
        next_event: r#"{"name": "world"}"#,
        next_run: "--rootfs / -- uname -a",
    })
}

/// Builds `examples/rust-hello` for musl and gives the folder that holds its `bootstrap`.
pub(crate) fn build_rust_example() -> anyhow::Result<PathBuf> {
    let target = command::target_folder()?.join("examples");
    command::run(
        command::cargo()
            .args(["build", "--release", "--quiet", "--target", setup::MUSL_TARGET])
            .arg("--manifest-path")
            .arg(root().join("examples/rust-hello/Cargo.toml"))
            .arg("--target-dir")
            .arg(&target),
    )?;
    let folder = target.join("rust-hello");
    std::fs::create_dir_all(&folder)?;
    std::fs::copy(target.join("x86_64-unknown-linux-musl/release/bootstrap"), folder.join("bootstrap"))?;
    Ok(folder)
}

fn print_next_steps(program: &Path, server: &Server, example: &Example) {
    let (program, data) = (program.display(), server.data.display());
    let Example { next_event, next_run, .. } = example;
    println!("\nTry next, in another terminal:\n");
    println!("  {program} invoke {FUNCTION} '{next_event}' --data {data}");
    println!("  {program} run --data {data} {next_run}");
    println!("\nor with the AWS CLI (version 1 takes no --cli-binary-format):\n");
    for (variable, value) in &server.environment {
        println!("  export {variable}={value}");
    }
    println!("  aws lambda list-functions");
    println!("  aws lambda invoke --function-name {FUNCTION} --cli-binary-format raw-in-base64-out \\");
    println!("      --payload '{next_event}' /dev/stdout");
}

/// The demo as part of the gate: as this user and, when that is root, as an ordinary one; nothing may be left behind.
pub(crate) fn check() -> anyhow::Result<Outcome> {
    let program = server::build(Profile::Development)?;
    let folder = std::env::temp_dir().join(format!("calypte-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = check_in(&program, &folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn check_in(program: &Path, folder: &Path) -> anyhow::Result<Outcome> {
    check_as(&[], program, &folder.join("data"))?;
    let is_root = output(Command::new("id").arg("-u"))?.trim() == "0";
    if !is_root {
        return Ok(Outcome {
            skipped: vec!["demo as another user: this user is not root, so it ran as itself".to_owned()],
        });
    }
    if find("setpriv").is_none() || find("setfacl").is_none() {
        bail!("setpriv (package util-linux) and setfacl (package acl) are needed to run the demo as an ordinary user");
    }
    // The checkout may lie where only root may look, so the ordinary user gets a copy of the program.
    let copy = folder.join("calypte");
    std::fs::copy(program, &copy)?;
    let home = folder.join("user");
    std::fs::create_dir(&home)?;
    command::run(Command::new("chown").arg(ORDINARY_USER).arg(&home))?;
    command::run(Command::new("chmod").arg("755").arg(folder))?;
    let grant = format!("u:{ORDINARY_USER}:rw");
    command::run(Command::new("setfacl").args(["-m", &grant, "/dev/kvm"]))?;
    let wrapper: Vec<String> = ["setpriv", "--reuid", ORDINARY_USER, "--regid", ORDINARY_USER, "--clear-groups", "env"]
        .iter()
        .map(|word| (*word).to_owned())
        .chain([format!("HOME={}", home.display()), format!("PATH={ORDINARY_PATH}")])
        .collect();
    let result = check_as(&wrapper, &copy, &home.join("data"));
    command::run(Command::new("setfacl").args(["-x", &format!("u:{ORDINARY_USER}"), "/dev/kvm"]))?;
    result.context("as an ordinary user")?;
    Ok(Outcome::default())
}

/// `nobody`, which every Debian has.
const ORDINARY_USER: &str = "65534";
const ORDINARY_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// `calypte run` as somebody: output, input, exit status, `/tmp`.
fn check_run(wrapper: &[String], program: &Path) -> anyhow::Result<()> {
    let script = "read word; echo $word >/tmp/file; read again </tmp/file; echo $again; exit 3";
    let words: Vec<OsString> = wrapper.iter().map(OsString::from).chain([program.into()]).collect();
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .args(["run", "--rootfs", "/", "--", "busybox", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("the program's input")?.write_all(b"hello\n")?;
    let output = child.wait_with_output()?;
    if output.status.code() != Some(3) || output.stdout != b"hello\n" {
        bail!("calypte run: {}, printed {:?}", output.status, String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

fn check_as(wrapper: &[String], program: &Path, data: &Path) -> anyhow::Result<()> {
    let server = Server::start(wrapper, program, data, 0)?;
    show(&server)?;
    let family = server.descendants()?;
    if family.is_empty() {
        bail!("a running server has no zygote and no monitor: this check looks at the wrong processes");
    }
    let mounts_before = std::fs::read_to_string("/proc/mounts")?;
    drop(server);
    let left: Vec<u32> = family.into_iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect();
    if !left.is_empty() {
        bail!("processes {left:?} outlived the server");
    }
    if std::fs::read_to_string("/proc/mounts")? != mounts_before || mounts_before.contains(&*data.to_string_lossy()) {
        bail!("the server left or made a mount");
    }
    check_run(wrapper, program)
}
