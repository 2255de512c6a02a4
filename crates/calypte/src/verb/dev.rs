//! `calypte dev`: a server with nothing to configure. The first start makes an account with a key and imports the
//! Pythons of this host; later ones find them there.

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::{Context, bail};
use calypte_store::{AccessKey, KeyStatus};
use calypte_worker::image::{Images, RuntimeImage, discover_host_pythons};
use serde_json::json;

use super::Global;
use crate::data::DataFolder;
use crate::output::note;
use crate::progress::{self, ImportBar};
use crate::server::{Options, Prepared};

/// The account that is made at the first start.
const ACCOUNT_NAME: &str = "dev";

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: Options,
    /// Do not look for Pythons of this host
    #[arg(long)]
    no_host_pythons: bool,
}

/// Serves until Ctrl-C or SIGTERM.
pub(crate) async fn run(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let mut prepared = Prepared::new(&arguments.server, global.data_folder()?).await?;
    let images = prepared.images.clone();
    if !arguments.no_host_pythons {
        let import = {
            let images = images.clone();
            move || import_host_pythons(&images)
        };
        let import = tokio::task::spawn_blocking(import);
        tokio::select! {
            imported = import => imported.context("the import of the host's Pythons failed")??,
            // What is half imported is removed by the next import.
            () = prepared.stopped() => bail!("stopped while it imported the Pythons of this host"),
        }
    }
    let key = account_key(&prepared).await?;
    let data = prepared.folder().path().to_owned();
    let server = prepared.start().await?;
    let runtimes: Vec<String> = images.list()?.into_iter().map(|image| image.name).collect();
    let text = || {
        format!(
            "Calypte {} is ready. Data folder: {}\n{}\n\n  export AWS_ENDPOINT_URL_LAMBDA={}\n  \
             export AWS_ACCESS_KEY_ID={}\n  export AWS_SECRET_ACCESS_KEY={}\n  export AWS_REGION={}\n  \
             export AWS_DEFAULT_REGION={}\n\n\
             These lines are for the AWS CLI and SDKs; `calypte deploy` and `calypte invoke` need none. Ctrl-C stops it.",
            env!("CARGO_PKG_VERSION"),
            data.display(),
            runtimes_text(&runtimes),
            server.endpoint,
            key.id,
            key.secret.expose(),
            server.region,
            server.region,
        )
    };
    let value = json!({
        "endpoint": server.endpoint,
        "access_key_id": key.id.as_str(),
        "secret_access_key": key.secret.expose(),
        "account_id": key.account.as_str(),
        "region": server.region,
        "runtimes": runtimes,
        "data": data,
        "pid": std::process::id(),
    });
    global.output().result(text, &value)?;
    server.serve().await?;
    Ok(ExitCode::SUCCESS)
}

fn runtimes_text(runtimes: &[String]) -> String {
    if runtimes.is_empty() {
        "There is no runtime but provided.al2023; `calypte runtime add --help` says how to import others.".to_owned()
    } else {
        format!("Runtimes: {}, provided.al2023", runtimes.join(", "))
    }
}

/// The key in the credentials file if it is still good, or a new one of the account, which is made if need be.
async fn account_key(prepared: &Prepared) -> anyhow::Result<AccessKey> {
    let (folder, store): (&DataFolder, _) = (prepared.folder(), &prepared.store);
    if let Some(credentials) = folder.read_credentials()?
        && let Some(key) = store.access_key(&credentials.access_key_id.parse()?).await?
        && key.status == KeyStatus::Active
    {
        return Ok(key);
    }
    let account = match store.account_named(ACCOUNT_NAME).await? {
        Some(account) => account,
        None => prepared.accounts.create(store, ACCOUNT_NAME).await?,
    };
    let key = store.create_access_key(&account.id).await?;
    folder.write_credentials(&key)?;
    Ok(key)
}

/// Imports every Python of this host that is not there yet, and again those that were upgraded since, as was perhaps
/// Calypte with its bootstrap. One that cannot be imported is reported and left out: the server is of use without it.
fn import_host_pythons(images: &Images) -> anyhow::Result<()> {
    let known: HashMap<String, RuntimeImage> =
        images.list()?.into_iter().map(|image| (image.name.clone(), image)).collect();
    let search = progress::of_wait("looking for Pythons");
    let pythons = discover_host_pythons();
    search.finish_and_clear();
    for python in pythons {
        let name = python.runtime_name();
        match known.get(&name) {
            // An image of that name from elsewhere is somebody's choice.
            Some(image) if !python.is_source_of(image) || python.is_imported_as(image) => continue,
            Some(_) | None => {}
        }
        let Some(program) = python.executable.to_str() else { continue };
        let mut bar = ImportBar::new(&name);
        let imported = images.add_from_host(Some(&name), program, &mut |progress| bar.show(&progress));
        bar.finish();
        if let Err(error) = imported {
            note(&format!("warning: {:#}", anyhow::Error::from(error).context(format!("{program} was not imported"))));
        }
    }
    Ok(())
}
