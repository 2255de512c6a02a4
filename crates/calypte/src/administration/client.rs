//! The command line's end of the socket.

use std::io;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{Refusal, SocketPath};
use crate::connection;
use crate::data::DataFolder;

/// Speaks to the server of a data folder.
pub(crate) struct Client {
    folder: DataFolder,
}

impl Client {
    /// For the server of this folder.
    pub(crate) fn new(folder: DataFolder) -> Self {
        Self { folder }
    }

    /// Asks for something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        read_json(self.send(Method::GET, path, &()).await?).await
    }

    /// Makes something.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        read_json(self.send(Method::POST, path, body).await?).await
    }

    /// Changes or removes something.
    pub(crate) async fn change(&self, method: Method, path: &str, body: &impl Serialize) -> anyhow::Result<()> {
        self.send(method, path, body).await.map(drop)
    }

    /// Sends a request; the answer's body, if the server did not refuse.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &impl Serialize) -> anyhow::Result<Incoming> {
        let body = Full::new(Bytes::from(serde_json::to_vec(body)?)).boxed();
        let request =
            Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json").body(body)?;
        let response = connection::send(self.connect().await?, request).await?;
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        let body = connection::read(body).await?;
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => bail!(refusal.message),
            Err(_) => bail!("the server answered {}: {}", head.status, String::from_utf8_lossy(&body)),
        }
    }

    async fn connect(&self) -> anyhow::Result<UnixStream> {
        let folder = self.folder.path();
        let connect = async { UnixStream::connect(&SocketPath::within(folder)?.path).await };
        connect.await.map_err(|error| match error.kind() {
            // The socket of a server that was killed is still there.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                anyhow!(
                    "no server runs on the data folder {}; start one with `calypte dev`, or name the folder of one that runs \
                     with --data",
                    folder.display()
                )
            }
            _ => anyhow!(error).context(format!("cannot reach the server of the data folder {}", folder.display())),
        })
    }
}

async fn read_json<T: DeserializeOwned>(body: Incoming) -> anyhow::Result<T> {
    let body = connection::read(body).await?;
    serde_json::from_slice(&body).context("the server answered something unexpected; is it of the same version?")
}
