//! Kills a process that deploys functions, again and again at random moments, and looks for everything that it had
//! acknowledged. Its own `main`, because the same program is the victim.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test without the harness reports itself")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use bytes::Bytes;
use calypte_store::{FunctionConfiguration, FunctionState, Store, TemplateChoice};
use calypte_types::{AccountId, FunctionName};

/// Times that the victim is killed.
const KILLS: u32 = 25;
/// A round ends after at most this many acknowledgements.
const ACKNOWLEDGED_MAX: u32 = 40;
/// `ACCOUNT NAME`: twelve digits, a space, `f-` and thirty-two digits.
const LINE_BYTES: usize = 12 + 1 + 2 + 32;
/// Set for the victim: the data folder.
const VICTIM_FOLDER: &str = "CALYPTE_TEST_VICTIM_FOLDER";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(folder) = std::env::var_os(VICTIM_FOLDER) {
        runtime.block_on(deploy_for_ever(Path::new(&folder)));
    }
    if std::env::args().any(|argument| argument == "--list") {
        println!("acknowledged_functions_survive_kill_9: test");
        return ExitCode::SUCCESS;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        // The moment of the kill: after a random number of acknowledgements, plus a random part of one.
        let random = u64::from_le_bytes(std::array::from_fn(|_| rand_byte()));
        let kill_after = 1 + (random % u64::from(ACKNOWLEDGED_MAX)) as u32;
        let spins = (random >> 32) % 2_000_000;
        acknowledged.extend(kill_victim(folder.path(), kill_after, spins));
        runtime.block_on(check(folder.path(), &acknowledged));
        eprintln!("kill {round}: {} functions acknowledged, all there", acknowledged.len());
    }
    assert!(acknowledged.len() >= KILLS as usize, "the victim worked");
    ExitCode::SUCCESS
}

fn rand_byte() -> u8 {
    let mut byte = [0];
    getrandom::fill(&mut byte).unwrap();
    byte[0]
}

/// The victim: adds functions with distinct code and prints `ACCOUNT NAME` after each acknowledgement.
async fn deploy_for_ever(folder: &Path) -> ! {
    let store = Store::open(folder).await.unwrap();
    let account = match store.accounts().await.unwrap().first() {
        Some(account) => account.clone(),
        None => store.create_account("dev").await.unwrap(),
    };
    let mut stdout = std::io::stdout();
    loop {
        let id = uuid::Uuid::new_v4();
        let name: FunctionName = format!("f-{}", id.simple()).parse().unwrap();
        let code = store.blobs().put(Bytes::from(name.to_string().repeat(1000))).await.unwrap();
        let create = store.create_function(&account.id, &name, configuration(), &code, FunctionState::Active);
        create.await.unwrap();
        writeln!(stdout, "{} {name}", account.id).unwrap();
    }
}

fn configuration() -> FunctionConfiguration {
    FunctionConfiguration {
        runtime: "python3.11".to_owned(),
        handler: "a.b".to_owned(),
        role: String::new(),
        description: String::new(),
        memory_mib: 128,
        tmp_mib: 512,
        timeout_s: 3,
        environment: BTreeMap::new(),
        tags: BTreeMap::new(),
        template: TemplateChoice::Off,
    }
}

/// Runs a victim until it acknowledged `kill_after` functions and a little longer, kills it, and returns everything
/// that it acknowledged.
fn kill_victim(folder: &Path, kill_after: u32, spins: u64) -> Vec<(AccountId, FunctionName)> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .env(VICTIM_FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut read: Vec<String> = (0..kill_after).map(|_| lines.next().unwrap().unwrap()).collect();
    for _ in 0..spins {
        std::hint::spin_loop();
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    // Lines in the pipe were acknowledged too. A line without an end was not: the kill cut it short.
    read.extend(lines.map_while(Result::ok).filter(|line| line.len() == LINE_BYTES));
    read.iter()
        .map(|line| {
            let (account, name) = line.split_once(' ').unwrap();
            (account.parse().unwrap(), name.parse().unwrap())
        })
        .collect()
}

async fn check(folder: &Path, acknowledged: &[(AccountId, FunctionName)]) {
    let store = Store::open(folder).await.expect("the folder opens after a kill");
    store.collect_garbage().await.unwrap();
    for (account, name) in acknowledged {
        let function = store.function(account, name).await.unwrap().unwrap_or_else(|| panic!("{name} is lost"));
        let code = store.blobs().get(&function.code.blob).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(code, name.to_string().repeat(1000), "{name}");
    }
    store.close().await;
}
