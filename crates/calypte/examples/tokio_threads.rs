//! A multi-threaded Tokio program for `tests/runtimes.rs`: tasks on several threads, timers, channels, a TCP exchange
//! over loopback, child processes.

#![allow(clippy::print_stdout, missing_docs, reason = "a program that prints its result")]

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() -> std::io::Result<()> {
    let (sender, mut receiver) = mpsc::channel(16);
    for task in 0..64_u64 {
        let sender = sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(task % 7)).await;
            let total: u64 = (0..10_000).map(|n| n ^ task).sum();
            sender.send(total).await.expect("the receiver outlives the tasks");
        });
    }
    drop(sender);
    let mut total = 0;
    while let Some(part) = receiver.recv().await {
        total += part;
    }
    println!("tasks {total}");

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await?;
        received.reverse();
        stream.write_all(&received).await
    });
    let mut client = TcpStream::connect(address).await?;
    client.write_all(&vec![7; 100_000]).await?;
    client.shutdown().await?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await?;
    server.await.expect("the server task does not panic")?;
    println!("echoed {} {}", answer.len(), answer.iter().all(|byte| *byte == 7));

    let mut cat = tokio::process::Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    cat.stdin.take().expect("it is piped").write_all(b"through cat").await?;
    let output = cat.wait_with_output().await?;
    println!("child {} {}", String::from_utf8_lossy(&output.stdout), output.status);
    let mut sleeping = tokio::process::Command::new("sleep").arg("100").spawn()?;
    sleeping.kill().await?;
    println!("killed {}", sleeping.wait().await?);

    let blocking = tokio::task::spawn_blocking(|| std::fs::read_to_string("/proc/sys/kernel/ostype"));
    println!("{}", blocking.await.expect("reading does not panic")?.trim());
    std::process::exit(3);
}
