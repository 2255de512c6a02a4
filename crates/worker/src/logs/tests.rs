//! Logs on a real file system.

use std::time::Duration;

use super::*;

fn names() -> (AccountId, FunctionName) {
    ("000000000001".parse().unwrap(), "hello".parse().unwrap())
}

fn size_of(directory: &Path) -> u64 {
    segment::list(directory).unwrap().iter().map(|segment| segment.length).sum()
}

#[tokio::test]
async fn tail_gives_the_last_lines_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (account, function) = names();
    let logs = Logs::open(folder.path().join("logs")).unwrap();
    assert_eq!(logs.tail(&account, &function, 5).await.unwrap(), LogTail { lines: Vec::new(), end: 0 });
    let sink = logs.sink(&account, &function);
    sink.append(b"one\ntwo\n".to_vec());
    sink.append(b"three\n".to_vec());
    for (lines, expected) in
        [(0, ""), (1, "three\n"), (2, "two\nthree\n"), (3, "one\ntwo\nthree\n"), (9, "one\ntwo\nthree\n")]
    {
        let tail = logs.tail(&account, &function, lines).await.unwrap();
        assert_eq!((std::str::from_utf8(&tail.lines).unwrap(), tail.end), (expected, 14));
    }
    drop((sink, logs));

    let logs = Logs::open(folder.path().join("logs")).unwrap();
    logs.sink(&account, &function).append(b"four\n".to_vec());
    assert_eq!(logs.tail(&account, &function, 2).await.unwrap(), LogTail { lines: b"three\nfour\n".to_vec(), end: 19 });
}

#[tokio::test]
async fn a_log_keeps_its_newest_bytes_within_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    let (account, function) = names();
    let logs = Logs::open(folder.path().to_owned()).unwrap();
    let sink = logs.sink(&account, &function);
    let line = [&[b'x'; 1023][..], b"\n"].concat().repeat(1024);
    for _ in 0..40 {
        sink.append(line.clone());
        logs.flush().await;
    }
    let directory = sink.key.directory(folder.path());
    let (size, bound) = (size_of(&directory), (SEGMENTS_KEPT as u64) * (SEGMENT_BYTES_MAX + line.len() as u64));
    assert!(size >= SEGMENT_BYTES_MAX && size <= bound, "{size} of {bound}");
    let tail = logs.tail(&account, &function, 10_000).await.unwrap();
    assert_eq!((tail.lines.len(), tail.end), (10_000 * 1024, 40 * 1024 * 1024));

    let mut follower = logs.follow(&account, &function, 0);
    let mut length = 0;
    while length < size {
        length += follower.next().await.unwrap().unwrap().len() as u64;
    }
    assert_eq!(length, size, "a follower that is too far behind gets what there is");
}

#[tokio::test]
async fn a_follower_sees_lines_as_they_come_and_ends_with_the_logs() {
    let folder = tempfile::tempdir().unwrap();
    let (account, function) = names();
    let logs = Logs::open(folder.path().to_owned()).unwrap();
    let mut follower = logs.follow(&account, &function, 0);
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(bytes) = follower.next().await.unwrap() {
            seen.extend(bytes);
        }
        seen
    });
    let sink = logs.sink(&account, &function);
    for line in 0..100 {
        sink.append(format!("{line}\n").into_bytes());
        tokio::task::yield_now().await;
    }
    logs.flush().await;
    drop((sink, logs));
    let seen = tokio::time::timeout(Duration::from_secs(20), reader).await.unwrap().unwrap();
    let expected: String = (0..100).map(|line| format!("{line}\n")).collect();
    assert_eq!(String::from_utf8(seen).unwrap(), expected);
}

#[tokio::test]
async fn logs_that_cannot_be_written_disturb_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (account, function) = names();
    let path = folder.path().join("logs");
    std::fs::write(&path, "a file where the folder should be").unwrap();
    let logs = Logs::open(path.clone()).unwrap();
    let sink = logs.sink(&account, &function);
    sink.append(b"lost\n".to_vec());
    logs.flush().await;
    assert_eq!(logs.dropped_bytes.load(Ordering::Relaxed), 5);
    std::fs::remove_file(&path).unwrap();
    sink.append(b"kept\n".to_vec());
    assert_eq!(logs.tail(&account, &function, 9).await.unwrap().lines, b"kept\n");
}
