//! A process that guest code has taken over tries to get out of its jail, that of a monitor on either platform and that of
//! egress: as root and as an ordinary user, each attempt in a process of its own, since most end in its death.
//!
//! Without the standard test harness: this program is also the prisoner (`attempt JAIL NAME`), which must have one thread.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test program reports to people")]

#[path = "escape/attempts.rs"]
mod attempts;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use attempts::{ATTEMPTS, Attempt, Jail, Place};
use calypte_jail::{Begun, Children, Config, Feature, Identity, JailError, Limits, Policy, Profile};

/// `nobody` of every distribution.
const ORDINARY_USER: u32 = 65_534;
/// Statuses of a prisoner besides its death: the attempt was refused, succeeded, or could not be made.
const REFUSED: i32 = 0;
const ESCAPED: i32 = 10;
const NOT_JAILED: i32 = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("attempt") => prisoner(&arguments[1], &arguments[2], &arguments[3..]),
        Some("--list") => ExitCode::SUCCESS,
        _ => guard(),
    }
}

/// The jail of a monitor, with small limits so that it is quick to reach them.
fn config(directory: &Path, profile: Profile, policy: Policy) -> Config {
    Config {
        directories: vec![directory.join("shown")],
        profile,
        identity: Identity::Own { id: own_user() },
        limits: Limits {
            memory_bytes: Some(attempts::MEMORY_BYTES_MAX),
            descriptors: attempts::DESCRIPTORS_MAX,
            threads: attempts::THREADS_MAX,
            file_bytes: Some(0),
        },
        policy,
    }
}

/// A user id that nobody else has.
fn own_user() -> u32 {
    200_000 + std::process::id() % 65_536
}

fn kvm_profile() -> Profile {
    Profile::KvmMonitor { requests: vec![attempts::KVM_RUN] }
}

/// Enters a jail as its usual inmate does; the directory that is shown there. Egress is shown none, and keeps one here all
/// the same, as if it had come by it.
fn enter(jail: Jail, begun: Option<Begun>, directory: &Path) -> Result<OwnedFd, JailError> {
    let profile = match jail {
        Jail::Kvm | Jail::Run => kvm_profile(),
        Jail::Ptrace => Profile::PtraceMonitor,
        Jail::Egress => {
            let shown = File::open(directory.join("shown")).expect("it was made");
            return calypte_jail::egress(own_user(), Policy::Full).map(|_| shown.into());
        }
    };
    let begun = begun.expect("monitors begin first");
    let mut config = config(directory, profile, Policy::Full);
    if jail == Jail::Run {
        config = Config { directories: vec!["/".into()], identity: Identity::Keep, ..config };
    }
    let mut inside = calypte_jail::enter(begun, &config)?;
    Ok(inside.directories.remove(0))
}

/// Enters the jail and makes one attempt.
fn prisoner(jail: &str, name: &str, arguments: &[String]) -> ExitCode {
    let jail = Jail::ALL.into_iter().find(|other| other.name() == jail).expect("a known jail");
    let place = Place::new(Path::new(&arguments[0]), arguments[1].parse().expect("a pid"));
    if name == "where-namespaces-are-refused" {
        return in_a_poor_host(place.directory());
    }
    let attempt = ATTEMPTS.iter().find(|attempt| attempt.name == name).expect("a known attempt");
    let begun = match jail {
        Jail::Kvm | Jail::Ptrace => Some(calypte_jail::begin(Children::Separate)),
        Jail::Run => Some(calypte_jail::begin(Children::None)),
        Jail::Egress => None,
    };
    // SAFETY: the process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            let shown = match enter(jail, begun, place.directory()) {
                Ok(shown) => shown,
                Err(error) => {
                    eprintln!("{error}");
                    std::process::exit(NOT_JAILED)
                }
            };
            match (attempt.run)(&place, &shown) {
                Ok(evidence) => {
                    drop(writeln!(std::io::stderr(), "{name}: {evidence}"));
                    std::process::exit(ESCAPED)
                }
                Err(error) => {
                    drop(writeln!(std::io::stderr(), "{error}"));
                    std::process::exit(REFUSED)
                }
            }
        }
        pid => {
            let mut status = 0;
            // SAFETY: `status` is a valid place for the result.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            let status = ExitStatus::from_raw(status);
            // A signal is passed on as a shell does.
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            std::process::exit(code)
        }
    }
}

/// Where the host allows no namespaces, the rest of the jail holds, what is missing is named, and a full jail is refused.
fn in_a_poor_host(directory: &Path) -> ExitCode {
    use seccompiler::{SeccompAction, SeccompFilter, TargetArch};
    let refused = [(libc::SYS_unshare, Vec::new())].into_iter().collect();
    let action = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, action, TargetArch::x86_64).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
    // SAFETY: the process has one thread.
    if unsafe { libc::fork() } == 0 {
        let begun = calypte_jail::begin(Children::Separate);
        let refused = calypte_jail::enter(begun, &config(directory, kvm_profile(), Policy::Full)).err();
        let is_named = matches!(&refused, Some(JailError::Incomplete { feature: Feature::Processes, .. }));
        assert!(is_named, "{refused:?}");
        std::process::exit(0)
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    unsafe { libc::wait(&raw mut status) };
    assert_eq!(status, 0, "a full jail is refused");
    let begun = calypte_jail::begin(Children::Separate);
    let inside = calypte_jail::enter(begun, &config(directory, kvm_profile(), Policy::BestEffort)).unwrap();
    let missing: Vec<Feature> = inside.report.missing().map(|step| step.feature).collect();
    for feature in [Feature::Processes, Feature::EmptyRoot, Feature::Network] {
        assert!(missing.contains(&feature), "{missing:?}");
    }
    for feature in [Feature::Privileges, Feature::Limits, Feature::Landlock, Feature::SystemCalls] {
        assert!(!missing.contains(&feature), "{missing:?}");
    }
    let opened = File::open("/etc/passwd").map(drop).map_err(|error| error.kind());
    assert_eq!(opened, Err(std::io::ErrorKind::PermissionDenied));
    std::process::exit(REFUSED)
}

/// What prisoners try to reach.
struct Outside {
    directory: tempfile::TempDir,
    victim: Child,
    _listener: UnixListener,
}

impl Outside {
    /// The other process is of the prisoner's own user, so that only the jail protects it.
    fn new(uid: Option<u32>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::create_dir(path.join("shown")).unwrap();
        std::fs::write(path.join("shown/file"), "shown").unwrap();
        std::fs::write(path.join("secret"), "secret").unwrap();
        let listener = UnixListener::bind(path.join("socket")).unwrap();
        // Everybody may, as far as the files' own permissions go.
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        for name in ["", "shown", "secret", "socket"] {
            std::fs::set_permissions(path.join(name), std::fs::Permissions::clone(&everybody)).unwrap();
        }
        let mut victim = Command::new("sleep");
        if let Some(uid) = uid {
            victim.uid(uid).gid(uid);
        }
        let mut victim = victim.arg("600").stdin(Stdio::null()).spawn().unwrap();
        assert!(victim.try_wait().unwrap().is_none());
        Self { directory, victim, _listener: listener }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.victim.kill());
        drop(self.victim.wait());
    }
}

/// The tests.
fn guard() -> ExitCode {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let users: &[(&str, Option<u32>)] = match rustix::process::geteuid().is_root() {
        true => &[("root", None), ("nobody", Some(ORDINARY_USER))],
        false => &[("this user", None)],
    };
    let program = copy_of_this_program();
    let extra = Attempt::without_namespaces();
    for (user, uid) in users {
        let mut outside = Outside::new(*uid);
        for jail in Jail::ALL {
            let mut is_possible = true;
            for attempt in ATTEMPTS.iter().chain([&extra]) {
                let Some(expected) = attempt.expected(jail) else { continue };
                let title = format!("escape::{}::{} as {user}", jail.name(), attempt.name);
                if !is_possible {
                    println!("SKIP {title}: this host does not allow a full jail");
                    skipped += 1;
                    continue;
                }
                let (status, text) = attempt_in(&program.path().join("escape"), jail, attempt.name, &outside, *uid);
                is_possible = status != Some(NOT_JAILED);
                let is_alive = outside.victim.try_wait().unwrap().is_none();
                if !is_possible {
                    println!("SKIP {title}: {}", text.trim());
                    skipped += 1;
                } else if status == Some(expected.status()) && is_alive {
                    println!("test {title} ... ok");
                    passed += 1;
                } else {
                    println!("test {title} ... FAILED: {status:?} {}", text.trim());
                    failed += 1;
                }
            }
        }
        let secret = std::fs::read_to_string(outside.directory.path().join("secret")).unwrap();
        assert_eq!(secret, "secret", "the file outside is as it was");
    }
    println!("\ntest result: {passed} passed; {failed} failed; {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Has a prisoner make an attempt; its status and what it says.
fn attempt_in(program: &Path, jail: Jail, name: &str, outside: &Outside, uid: Option<u32>) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    command.args(["attempt", jail.name(), name]).arg(outside.directory.path()).arg(outside.victim.id().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let mut child = command.spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().code(), text)
}

/// Where an ordinary user may read it, wherever it was built.
fn copy_of_this_program() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), std::fs::Permissions::clone(&executable)).unwrap();
    std::fs::copy(std::env::current_exe().unwrap(), directory.path().join("escape")).unwrap();
    std::fs::set_permissions(directory.path().join("escape"), executable).unwrap();
    directory
}
