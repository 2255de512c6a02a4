//! Real clients against a real server: everything under `tests/clients`, run by Python's `unittest`.

use std::process::Command;

use crate::command::{output, root, run};
use crate::demo::build_rust_example;
use crate::gate::Outcome;
use crate::server::{self, Profile, Server};
use crate::setup;

/// Starts a server on a folder of its own and runs every client test against it.
pub(crate) fn run_clients() -> anyhow::Result<Outcome> {
    let tools = setup::run()?;
    let program = server::build(Profile::Development)?;
    let rust_example = build_rust_example()?;
    let folder = std::env::temp_dir().join(format!("calypte-clients-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let data = folder.join("data");
    let server = Server::start(&[], &program, &data, 0)?;
    let path = std::env::join_paths(
        std::iter::once(tools.python_bin.clone())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    let result = run(Command::new(tools.python_bin.join("python"))
        .args(["-m", "unittest", "discover", "--verbose", "--start-directory"])
        .arg(root().join("tests/clients"))
        .env("PATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("CALYPTE_PROGRAM", &program)
        .env("CALYPTE_DATA", &data)
        .env("CALYPTE_SERVER_PID", server.pid().to_string())
        .env("CALYPTE_RUST_EXAMPLE", rust_example)
        .env("CALYPTE_AWSLAMBDARIC", site_packages(&tools)?)
        .env("CALYPTE_NUMPY", &tools.numpy)
        .envs(server.environment.clone()));
    drop(server);
    std::fs::remove_dir_all(&folder)?;
    result.map(|()| Outcome::default())
}

/// The folder into which the virtual environment's packages are installed.
fn site_packages(tools: &setup::Tools) -> anyhow::Result<String> {
    let printed = output(
        Command::new(tools.python_bin.join("python"))
            .args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]),
    )?;
    Ok(printed.trim().to_owned())
}
