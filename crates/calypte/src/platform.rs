//! The options about platforms, and what a server may do on which.

use anyhow::bail;
use calypte_monitor::platform::{Choice, choose};
use calypte_store::{Account, Store, StoreError};
use calypte_wire::monitor::Platform;
use clap::ValueEnum;

use crate::output::note;

/// Option of the verbs that run programs.
#[derive(clap::Args)]
pub(crate) struct PlatformOption {
    /// What executes programs: virtual machines (kvm), processes of this host under ptrace, which are slower and isolate
    /// less, or the first of these that works here
    #[arg(long, value_enum, default_value_t, value_name = "NAME", env = "CALYPTE_PLATFORM")]
    platform: Name,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Name {
    #[default]
    Auto,
    Kvm,
    Ptrace,
}

impl PlatformOption {
    /// The platform to use. Says so if it is not the one to be expected, and what to do about it.
    pub(crate) fn choose(&self) -> anyhow::Result<Platform> {
        let choice = match self.platform {
            Name::Auto => Choice::Auto,
            Name::Kvm => Choice::Only(Platform::Kvm),
            Name::Ptrace => Choice::Only(Platform::Ptrace),
        };
        let chosen = choose(choice)?;
        if let Some(reason) = chosen.fallback {
            note(&format!(
                "calypte: no virtual machines here, so programs run as processes under ptrace: slower, and isolated less \
                 (--platform ptrace says that this is wanted). For virtual machines: {reason}"
            ));
        }
        Ok(chosen.platform)
    }
}

/// Option of a server: how many accounts it may have when a platform is no virtual machine.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PtraceAccounts {
    /// One: whoever breaks out of a function can do no more than read what is its account's own.
    #[default]
    One,
    /// Any number.
    Many,
}

/// How many accounts a server may have.
#[derive(Debug)]
pub(crate) struct AccountLimit {
    is_one: bool,
    /// Held from the count to the creation.
    creation: tokio::sync::Mutex<()>,
}

/// Why an account was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    /// The limit.
    #[error(
        "this server runs functions under ptrace, which does not isolate accounts as virtual machines do, so it has one \
         account only. Use a host with /dev/kvm, or start the server with `--ptrace-accounts many` if accounts trust each other"
    )]
    One,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AccountLimit {
    /// The limit on a platform.
    pub(crate) fn new(platform: Platform, ptrace_accounts: PtraceAccounts) -> Self {
        let is_one = platform == Platform::Ptrace && ptrace_accounts == PtraceAccounts::One;
        Self { is_one, creation: tokio::sync::Mutex::new(()) }
    }

    /// Refuses a store that has more accounts than there may be.
    pub(crate) async fn check(&self, store: &Store) -> anyhow::Result<()> {
        let accounts = if self.is_one { store.accounts().await? } else { Vec::new() };
        if accounts.len() > 1 {
            let names: Vec<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
            bail!("{} (this data folder has {}: {})", AccountError::One, names.len(), names.join(", "));
        }
        Ok(())
    }

    /// Makes an account if there may be one more.
    pub(crate) async fn create(&self, store: &Store, name: &str) -> Result<Account, AccountError> {
        let _guard = self.creation.lock().await;
        if self.is_one && !store.accounts().await?.is_empty() {
            return Err(AccountError::One);
        }
        Ok(store.create_account(name).await?)
    }
}
