//! One HTTP/1.1 request over a connection of its own: to a server's TCP port or to the administration socket.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Time to reach a server.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Largest answer that is read at once: a function's result in JSON, generously.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A request's body.
pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;

/// Host and port of `http://HOST:PORT`, or why a text is no such URL.
pub(crate) fn check(endpoint: &str) -> anyhow::Result<(String, u16)> {
    let uri = endpoint.parse::<http::Uri>().ok().filter(|uri| uri.scheme_str() == Some("http"));
    let Some((uri, host)) = uri.as_ref().and_then(|uri| Some((uri, uri.host()?))) else {
        bail!(
            "the endpoint {endpoint:?} is not a URL like http://127.0.0.1:7070, the only kind that this command speaks"
        );
    };
    Ok((host.trim_matches(['[', ']']).to_owned(), uri.port_u16().unwrap_or(80)))
}

/// Opens a connection to `http://HOST:PORT`.
pub(crate) async fn connect(endpoint: &str) -> anyhow::Result<TcpStream> {
    let address = check(endpoint)?;
    let stream = match tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(error)
                .with_context(|| format!("no server answers at {endpoint}; start one with `calypte dev`"));
        }
        Err(_) => bail!("no server answers at {endpoint} within {} s", CONNECT_TIME_MAX.as_secs()),
    };
    // The request is written at once; waiting for more to send would only delay it. A failure is that delay.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Sends a request, whose URI may be absolute, and returns the answer's head and the rest of it as a stream.
pub(crate) async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut request: Request<Body>,
) -> anyhow::Result<Response<Incoming>> {
    let authority = request.uri().authority().map_or("localhost", http::uri::Authority::as_str);
    let host = http::HeaderValue::from_str(authority)?;
    request.headers_mut().insert(HOST, host);
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    *request.uri_mut() = target.parse()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("the connection failed")?;
    // Ends with the connection; its errors arrive at the sender too.
    tokio::spawn(connection);
    sender.send_request(request).await.context("the server closed the connection")
}

/// The whole rest of an answer.
pub(crate) async fn read(body: Incoming) -> anyhow::Result<Bytes> {
    let whole = Limited::new(body, RESPONSE_BYTES_MAX).collect().await;
    Ok(whole.map_err(|error| anyhow::anyhow!("the server's answer broke off: {error}"))?.to_bytes())
}
