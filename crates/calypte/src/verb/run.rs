//! `calypte run`: any program in a microVM, with this process's streams.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use calypte_jail::Policy;
use calypte_monitor::run::{AttendantCommand, Program, Publication, RunConfig, RunError, run_program};
use calypte_types::limits;
use calypte_worker::image::{Images, RuntimeImage};

use super::Global;
use crate::egress_options::EgressOptions;
use crate::environment_variable::EnvironmentVariable;
use crate::output;
use crate::platform::PlatformOption;
use crate::verb::zygote::UID_FIRST_DEFAULT;

/// Exit status when the program could not be run, as of `env(1)` and `docker run`.
const STATUS_NOT_RUN: u8 = 125;
/// Exit status when there is no such program, as of shells.
const STATUS_NOT_FOUND: u8 = 127;
/// Where programs are looked for in the microVM.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables of this process that the program gets too: they describe the terminal.
const PASSED_ON: [&str; 3] = ["TERM", "COLUMNS", "LINES"];

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Runtime whose files the program sees [default: the only one there is]
    #[arg(long, value_name = "NAME", conflicts_with = "rootfs")]
    runtime: Option<String>,
    /// Folder whose files the program sees, read-only unless --writable-root is given; / shows it this host's
    #[arg(long, value_name = "FOLDER")]
    rootfs: Option<PathBuf>,
    /// Let the program change files outside /tmp too: for itself, until it ends, within the size of /tmp
    #[arg(long)]
    writable_root: bool,
    #[command(flatten)]
    platform: PlatformOption,
    /// Memory of the microVM
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    memory: u32,
    /// Size of /tmp, which is the program's own and gone afterwards
    #[arg(long, value_name = "MIB", default_value_t = limits::EPHEMERAL_STORAGE_MIB_MIN)]
    tmp: u32,
    /// Virtual CPUs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// An environment variable; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<EnvironmentVariable>,
    /// Working directory in the microVM
    #[arg(long, value_name = "FOLDER")]
    workdir: Option<String>,
    /// End the program after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Say at the end where the program's exits to the monitor went: system calls, page faults
    #[arg(long)]
    profile: bool,
    /// `full`: do not run the program unless every layer of the jail around the microVM is possible here
    #[arg(long, value_name = "HOW", default_value_t = Policy::BestEffort, env = "CALYPTE_REQUIRE_JAIL")]
    require_jail: Policy,
    #[command(flatten)]
    egress: EgressOptions,
    /// Let connections to a port of this machine reach a port that the program listens on; may be repeated
    #[arg(long, value_name = "[ADDRESS:]PORT:PORT", value_parser = publication)]
    publish: Vec<Publication>,
    /// Program and arguments [default: the runtime's own]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a time in seconds, for example 2.5".to_owned())
}

/// `[HOST_ADDRESS:]HOST_PORT:GUEST_PORT`; the address of the host is 127.0.0.1 if none is given.
fn publication(text: &str) -> Result<Publication, String> {
    let expected = || "ports as 8080:80, or with an address of this machine as 0.0.0.0:8080:80".to_owned();
    let (host, guest_port) = text.rsplit_once(':').ok_or_else(expected)?;
    let host = match host.parse::<u16>() {
        Ok(port) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        Err(_) => host.parse().map_err(|_| expected())?,
    };
    let guest_port = guest_port.parse().ok().filter(|port| *port > 0).ok_or_else(expected)?;
    Ok(Publication { host, guest_port })
}

/// Runs it. The exit status is the program's; 125 when it could not be run, 127 when there is none of that name.
pub(crate) fn run(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let program = match describe(arguments, global) {
        Ok(program) => program,
        Err(error) => return Ok(fail(&error, STATUS_NOT_RUN, global)),
    };
    match run_program(program) {
        Ok(status) => Ok(ExitCode::from(status.code())),
        Err(error) => {
            let is_unknown = matches!(&error, RunError::Launch(error) if error.is_not_found());
            Ok(fail(&error.into(), if is_unknown { STATUS_NOT_FOUND } else { STATUS_NOT_RUN }, global))
        }
    }
}

fn fail(error: &anyhow::Error, status: u8, global: &Global) -> ExitCode {
    output::fail(error, global.json);
    ExitCode::from(status)
}

fn describe(arguments: Arguments, global: &Global) -> anyhow::Result<RunConfig> {
    let mut environment = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), "/tmp".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ];
    environment.extend(PASSED_ON.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))));
    let mut program = arguments.program;
    let (root, image_directory) = match arguments.rootfs {
        Some(folder) => {
            let root = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
            if !root.is_dir() {
                bail!("{} is not a folder; --rootfs takes the folder that the program sees as /", root.display());
            }
            if program.is_empty() {
                bail!("which program? For example: calypte run --rootfs {} -- /bin/ls", folder.display());
            }
            (root, None)
        }
        None => {
            let image = choose_runtime(arguments.runtime.as_deref(), global)?;
            if program.is_empty() {
                if image.bootstrap.is_empty() {
                    bail!("runtime {} has no program of its own: name one, as in `calypte run -- /bin/ls`", image.name);
                }
                program = image.bootstrap;
            }
            environment.extend(image.environment);
            (image.root, image.working_directory)
        }
    };
    environment.extend(arguments.env.into_iter().map(|variable| (variable.name, variable.value)));
    let mut described = Program {
        platform: arguments.platform.choose()?,
        mounts: vec![("/".to_owned(), root)],
        is_root_writable: arguments.writable_root,
        arguments: program,
        environment: Vec::new(),
        working_directory: arguments.workdir.or(image_directory).unwrap_or_else(|| "/".to_owned()),
        memory_mib: arguments.memory,
        tmp_mib: arguments.tmp,
        host_name: "calypte".to_owned(),
        vcpu_count: arguments.cpus,
    };
    // The last one of a name counts.
    for (name, value) in environment {
        described.set_variable(&name, &value);
    }
    let egress = arguments.egress.command(arguments.require_jail, UID_FIRST_DEFAULT)?;
    let attendant = AttendantCommand {
        program: std::env::current_exe().context("cannot find this program's own file")?,
        arguments: vec!["attend".into(), "--".into()],
        egress_arguments: egress.map(|(_, arguments)| arguments),
    };
    Ok(RunConfig {
        program: described,
        timeout: arguments.timeout,
        has_profile: arguments.profile,
        jail_policy: arguments.require_jail,
        attendant,
        publications: arguments.publish,
    })
}

fn choose_runtime(name: Option<&str>, global: &Global) -> anyhow::Result<RuntimeImage> {
    let folder = global.data_folder()?.runtimes();
    let none = || {
        "there is no runtime yet; import one with `calypte runtime add --from-host python3`, or use --rootfs / to show \
         the program this host's files"
    };
    if !folder.is_dir() {
        bail!(none());
    }
    let images = Images::open(folder)?;
    if let Some(name) = name {
        return Ok(images.get(name)?);
    }
    let mut all = images.list()?;
    match all.len() {
        0 => bail!(none()),
        1 => Ok(all.remove(0)),
        _ => {
            let names: Vec<&str> = all.iter().map(|image| image.name.as_str()).collect();
            bail!("there are several runtimes; name one with --runtime: {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_are_ports_with_or_without_an_address() {
        for (text, host, guest_port) in
            [("8080:80", "127.0.0.1:8080", 80), ("0.0.0.0:8080:80", "0.0.0.0:8080", 80), ("[::1]:0:80", "[::1]:0", 80)]
        {
            let expected = Publication { host: host.parse().unwrap(), guest_port };
            assert_eq!(publication(text), Ok(expected), "{text}");
        }
        for text in ["", "80", "80:", ":80", "8080:0", "localhost:80:80", "65536:80", "80:65536"] {
            assert!(publication(text).is_err(), "{text}");
        }
    }
}
