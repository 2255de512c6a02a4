//! The server's end of the socket: only the folder's owner, and root, get through.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

use super::{SOCKET_NAME, SocketPath};

/// Pause after a failure to accept, which is normally a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections of the owner.
pub(crate) struct OwnerListener {
    listener: UnixListener,
    path: PathBuf,
}

impl OwnerListener {
    /// Binds the socket in a data folder that this process owns; one that is left from before is replaced.
    pub(crate) fn bind(folder: &Path) -> io::Result<Self> {
        let path = folder.join(SOCKET_NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&SocketPath::within(folder)?.path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }
}

impl Drop for OwnerListener {
    fn drop(&mut self) {
        // The folder may be gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_owner(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

impl axum::serve::Listener for OwnerListener {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) if is_owner(&stream) => return (stream, address),
                Ok(_) => tracing::warn!("another user was refused at the administration socket"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no connection could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
