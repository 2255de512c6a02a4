//! The data folder: where it is, what lies in it, and the two small files by which the command line finds a server.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use calypte_iam::sign::Signer;
use calypte_types::{AccessKeyId, AccountId, SecretAccessKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the files here.
const FORMAT: u32 = 1;
/// The service that requests are signed for.
pub(crate) const SERVICE: &str = "lambda";
/// Region of a server when none is given.
pub(crate) const REGION_DEFAULT: &str = "us-east-1";

/// A data folder; it need not exist.
#[derive(Debug, Clone)]
pub(crate) struct DataFolder {
    path: PathBuf,
}

/// The key of the account that `calypte dev` made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Credentials {
    format: u32,
    /// The account.
    pub(crate) account_id: AccountId,
    /// The public half of the key.
    pub(crate) access_key_id: String,
    /// The secret half.
    pub(crate) secret_access_key: String,
}

/// Where the server of a data folder listens; the file is there while it runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    format: u32,
    /// `http://HOST:PORT`.
    pub(crate) endpoint: String,
    /// Its region.
    pub(crate) region: String,
    /// Its process id.
    pub(crate) pid: u32,
}

impl DataFolder {
    /// The folder at this path.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The user's, by the XDG base directory specification.
    pub(crate) fn of_user() -> anyhow::Result<Self> {
        let absolute = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        let base = base.context("neither XDG_DATA_HOME nor HOME is set; name a data folder with --data FOLDER")?;
        Ok(Self::new(base.join("calypte")))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Imported runtimes.
    pub(crate) fn runtimes(&self) -> PathBuf {
        self.path.join("runtimes")
    }

    /// Extracted code of functions.
    pub(crate) fn code(&self) -> PathBuf {
        self.path.join("code")
    }

    /// What [`DataFolder::write_credentials`] wrote.
    pub(crate) fn read_credentials(&self) -> anyhow::Result<Option<Credentials>> {
        self.read("credentials.json", |file: &Credentials| file.format)
    }

    /// Keeps the key of the account that `calypte dev` made, for the command line.
    pub(crate) fn write_credentials(&self, key: &calypte_store::AccessKey) -> anyhow::Result<()> {
        let credentials = Credentials {
            format: FORMAT,
            account_id: key.account.clone(),
            access_key_id: key.id.to_string(),
            secret_access_key: key.secret.expose().to_owned(),
        };
        self.write("credentials.json", &credentials)
    }

    /// Where the server of this folder listens, if one runs.
    pub(crate) fn read_endpoint(&self) -> anyhow::Result<Option<Endpoint>> {
        self.read("endpoint.json", |file: &Endpoint| file.format)
    }

    /// Says where the server listens.
    pub(crate) fn write_endpoint(&self, endpoint: &str, region: &str) -> anyhow::Result<()> {
        let (endpoint, region) = (endpoint.to_owned(), region.to_owned());
        self.write("endpoint.json", &Endpoint { format: FORMAT, endpoint, region, pid: std::process::id() })
    }

    /// The server ends.
    pub(crate) fn remove_endpoint(&self) {
        // It may be gone with the whole folder.
        let _ = fs::remove_file(self.path.join("endpoint.json"));
    }

    fn read<T: DeserializeOwned>(&self, name: &str, format: impl Fn(&T) -> u32) -> anyhow::Result<Option<T>> {
        let path = self.path.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let damaged =
            || format!("{} is damaged; remove it and restart the server, which writes it anew", path.display());
        let value: T = serde_json::from_slice(&text).with_context(damaged)?;
        if format(&value) != FORMAT {
            bail!("{} is of format {}, this version reads {FORMAT}", path.display(), format(&value));
        }
        Ok(Some(value))
    }

    /// Written aside and renamed, readable by the owner only.
    fn write(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let (path, aside) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || -> std::io::Result<()> {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            serde_json::to_writer_pretty(&mut file, value)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Credentials {
    /// Signs requests with this key.
    pub(crate) fn signer(&self, region: &str) -> anyhow::Result<Signer> {
        signer(&self.access_key_id, &self.secret_access_key, region)
    }
}

/// Signs requests for the Lambda API.
pub(crate) fn signer(access_key_id: &str, secret: &str, region: &str) -> anyhow::Result<Signer> {
    Ok(Signer {
        access_key_id: access_key_id.parse::<AccessKeyId>()?,
        secret: SecretAccessKey::new(secret),
        region: region.to_owned(),
        service: SERVICE.to_owned(),
    })
}
