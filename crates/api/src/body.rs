//! Reading request bodies: bounded in size, in time and in the memory of all of them together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

/// Longest pause between two parts of a body.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// Longest time for a body, besides what its size adds.
const READ_TIME_MIN: Duration = Duration::from_secs(30);
/// Slowest rate that a large body may arrive with, in bytes per second.
const READ_BYTES_PER_S_MIN: usize = 256 * 1024;
/// Memory of all bodies that are being read or worked on.
const MEMORY_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// What memory is counted in.
const MEMORY_UNIT_BYTES: usize = 1024;
/// Longest time that a body waits for memory.
const MEMORY_WAIT_MAX: Duration = Duration::from_secs(10);

/// The memory that bodies may have together.
#[derive(Debug, Clone)]
pub(crate) struct BodyMemory {
    units: Arc<Semaphore>,
    patience: Patience,
}

/// How long is waited for what others do.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Between two parts of a body.
    pause: Duration,
    /// For all of a body, besides what its size adds.
    body: Duration,
    /// For memory.
    memory: Duration,
}

const PATIENCE: Patience = Patience { pause: PAUSE_MAX, body: READ_TIME_MIN, memory: MEMORY_WAIT_MAX };

/// A body; counts against [`BodyMemory`] until dropped.
#[derive(Debug)]
pub(crate) struct ReadBody {
    pub(crate) bytes: Bytes,
    _memory: OwnedSemaphorePermit,
}

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It has more bytes than allowed.
    TooLarge,
    /// It came too slowly.
    TooSlow,
    /// The client went away or sent something that is not HTTP.
    Broken,
    /// Too many others are being read.
    NoMemory,
}

impl Default for BodyMemory {
    fn default() -> Self {
        Self { units: Arc::new(Semaphore::new(MEMORY_BYTES_MAX / MEMORY_UNIT_BYTES)), patience: PATIENCE }
    }
}

/// Reads a body of at most `bytes_max`.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: &mut Body,
    bytes_max: usize,
    memory: &BodyMemory,
) -> Result<ReadBody, BodyError> {
    let announced = announced_length(headers);
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(BodyError::TooLarge);
    }
    let units = announced.unwrap_or(bytes_max) / MEMORY_UNIT_BYTES + 1;
    let units = u32::try_from(units).map_err(|_| BodyError::TooLarge)?;
    let permit = timeout(memory.patience.memory, Arc::clone(&memory.units).acquire_many_owned(units));
    let Ok(Ok(permit)) = permit.await else { return Err(BodyError::NoMemory) };
    let time = memory.patience.body + Duration::from_secs((bytes_max / READ_BYTES_PER_S_MIN) as u64);
    let deadline = Instant::now() + time;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(part) = next_part(body, deadline, memory.patience.pause).await? {
        if first.len() + rest.len() + part.len() > bytes_max {
            return Err(BodyError::TooLarge);
        }
        if first.is_empty() && rest.is_empty() {
            // Most bodies have one part: no copy.
            first = part;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(announced.unwrap_or(0).max(first.len() + part.len()));
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&part);
    }
    let bytes = if rest.is_empty() { first } else { rest.freeze() };
    Ok(ReadBody { bytes, _memory: permit })
}

/// Reads and forgets up to `bytes_max` of what is left, so that a client that is still sending gets to read the answer
/// instead of a broken connection.
pub(crate) async fn discard(body: &mut Body, bytes_max: usize) {
    let deadline = Instant::now() + READ_TIME_MIN;
    let mut bytes = 0;
    while let Ok(Some(part)) = next_part(body, deadline, PAUSE_MAX).await {
        bytes += part.len();
        if bytes > bytes_max {
            return;
        }
    }
}

/// `Content-Length`; hyper has checked its form.
fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn next_part(body: &mut Body, deadline: Instant, pause: Duration) -> Result<Option<Bytes>, BodyError> {
    loop {
        let pause_end = Instant::now() + pause;
        let frame = timeout_at(deadline.min(pause_end), body.frame()).await.map_err(|_| BodyError::TooSlow)?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(BodyError::Broken),
            Some(Ok(frame)) => {
                // Trailers say nothing that is used.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};

    use super::*;

    fn parts(parts: &'static [&'static str]) -> Body {
        Body::from_stream(stream::iter(
            parts.iter().map(|part| Ok::<_, Infallible>(Bytes::from_static(part.as_bytes()))),
        ))
    }

    async fn read_parts(body: Body, bytes_max: usize) -> Result<Bytes, BodyError> {
        read_patiently(body, bytes_max, PATIENCE).await
    }

    async fn read_patiently(body: Body, bytes_max: usize, patience: Patience) -> Result<Bytes, BodyError> {
        let mut body = body;
        let memory = BodyMemory { patience, ..BodyMemory::default() };
        read(&HeaderMap::new(), &mut body, bytes_max, &memory).await.map(|read| read.bytes)
    }

    /// What must not be what ends a wait.
    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn a_body_is_the_sum_of_its_parts() {
        for (given, expected) in [
            (parts(&[]), ""),
            (parts(&["abc"]), "abc"),
            (parts(&["a", "", "bc", "def"]), "abcdef"),
            (parts(&["", "", "a"]), "a"),
        ] {
            assert_eq!(read_parts(given, 6).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn the_limit_holds_whether_the_length_is_announced_or_not() {
        assert_eq!(read_parts(parts(&["abc", "def"]), 5).await, Err(BodyError::TooLarge));
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, "6".parse().unwrap())]);
        let read = read(&headers, &mut parts(&["abc", "def"]), 5, &BodyMemory::default()).await;
        assert_eq!(read.map(|read| read.bytes), Err(BodyError::TooLarge));
    }

    #[tokio::test]
    async fn a_client_that_stalls_is_given_up() {
        let stalled = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"a"))]).chain(stream::pending());
        let patience = Patience { pause: SHORT, body: LONG, memory: LONG };
        assert_eq!(read_patiently(Body::from_stream(stalled), 10, patience).await, Err(BodyError::TooSlow));
    }

    #[tokio::test]
    async fn a_client_that_trickles_is_given_up() {
        let trickle = stream::repeat(()).then(|()| async {
            tokio::time::sleep(SHORT / 2).await;
            Ok::<_, Infallible>(Bytes::from_static(b"a"))
        });
        let patience = Patience { pause: LONG, body: SHORT, memory: LONG };
        assert_eq!(read_patiently(Body::from_stream(trickle), 1000, patience).await, Err(BodyError::TooSlow));
    }

    #[tokio::test]
    async fn memory_is_shared_and_given_back() {
        let patience = Patience { memory: SHORT, ..PATIENCE };
        let memory = BodyMemory { units: Arc::new(Semaphore::new(2)), patience };
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, "1500".parse().unwrap())]);
        let first = read(&headers, &mut parts(&["abc"]), 2000, &memory).await.unwrap();
        let second = read(&headers, &mut parts(&["abc"]), 2000, &memory).await;
        assert_eq!(second.map(|read| read.bytes), Err(BodyError::NoMemory));
        drop(first);
        assert!(read(&headers, &mut parts(&["abc"]), 2000, &memory).await.is_ok());
    }
}
