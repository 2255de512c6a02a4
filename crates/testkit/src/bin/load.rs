//! A load generator for the Lambda API: signed invocations over kept-alive connections, and what they took.
//!
//! Prints one JSON object. Credentials, region and endpoint come from the variables that the AWS clients read. The
//! answer of every request is checked: an error counts and is named.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command-line program prints its result")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Invokes a function again and again and prints what that took.
#[derive(Parser, Clone)]
struct Arguments {
    /// Function to invoke.
    #[arg(long)]
    function: String,
    /// The event.
    #[arg(long, default_value = "{}")]
    event: String,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Measured requests in all.
    #[arg(long, default_value_t = 1000)]
    requests: usize,
    /// Requests before, over all connections, that are not measured.
    #[arg(long, default_value_t = 50)]
    warm_up: usize,
    /// What is done before each request.
    #[arg(long, value_enum, default_value_t = Before::Nothing)]
    before: Before,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Before {
    /// Nothing: environments are reused.
    Nothing,
    /// The configuration is updated, so that the request finds no environment (one connection only; not measured).
    Update,
}

#[derive(Clone)]
struct Target {
    authority: String,
    region: String,
    credentials: Credentials,
}

impl Target {
    fn from_environment() -> anyhow::Result<Self> {
        let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
        let endpoint = variable("AWS_ENDPOINT_URL_LAMBDA")?;
        Ok(Self {
            authority: endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned(),
            region: variable("AWS_REGION")?,
            credentials: Credentials::new(
                variable("AWS_ACCESS_KEY_ID")?,
                variable("AWS_SECRET_ACCESS_KEY")?,
                None,
                None,
                "environment",
            ),
        })
    }

    fn signed(&self, method: &str, path: &str, body: &Bytes) -> anyhow::Result<http::Request<Full<Bytes>>> {
        let identity = self.credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("lambda")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?;
        let uri = format!("http://{}{path}", self.authority);
        let headers = [("host", self.authority.as_str())];
        let signable = SignableRequest::new(method, &uri, headers.into_iter(), SignableBody::Bytes(body))?;
        let (instructions, _) = sign(signable, &parameters.into())?.into_parts();
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .body(Full::new(body.clone()))?;
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

struct Connection {
    target: Target,
    sender: http1::SendRequest<Full<Bytes>>,
}

/// What one request took and how it was placed.
struct Sample {
    duration: Duration,
    placement: String,
}

impl Connection {
    async fn open(target: Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(&target.authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { target, sender })
    }

    async fn invoke(&mut self, function: &str, event: &Bytes) -> anyhow::Result<Sample> {
        let request = self.target.signed("POST", &format!("/2015-03-31/functions/{function}/invocations"), event)?;
        let started = Instant::now();
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let duration = started.elapsed();
        if head.status != 200 || head.headers.contains_key("x-amz-function-error") {
            bail!("{}: {}", head.status, String::from_utf8_lossy(&body));
        }
        let placement = head.headers.get("x-calypte-placement").and_then(|value| value.to_str().ok());
        Ok(Sample { duration, placement: placement.unwrap_or("unknown").to_owned() })
    }

    async fn update(&mut self, function: &str, count: usize) -> anyhow::Result<()> {
        let body = Bytes::from(serde_json::json!({ "Description": format!("update {count}") }).to_string());
        let request = self.target.signed("PUT", &format!("/2015-03-31/functions/{function}/configuration"), &body)?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status != 200 {
            bail!("update: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.before == Before::Update && arguments.connections != 1 {
        bail!("--before update needs --connections 1");
    }
    let target = Target::from_environment()?;
    run(&arguments, &target, arguments.warm_up).await?;
    let started = Instant::now();
    let samples = run(&arguments, &target, arguments.requests).await?;
    let elapsed = started.elapsed();
    println!("{}", summary(samples, elapsed));
    Ok(())
}

/// Makes `requests` requests over all connections; the samples of those that succeeded and the texts of the errors.
async fn run(arguments: &Arguments, target: &Target, requests: usize) -> anyhow::Result<Vec<Result<Sample, String>>> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..arguments.connections {
        let mut connection = Connection::open(target.clone()).await?;
        let (next, arguments) = (Arc::clone(&next), arguments.clone());
        tasks.push(tokio::spawn(async move {
            let event = Bytes::from(arguments.event.clone());
            let mut samples = Vec::new();
            loop {
                let count = next.fetch_add(1, Ordering::Relaxed);
                if count >= requests {
                    return Ok::<_, anyhow::Error>(samples);
                }
                if arguments.before == Before::Update {
                    connection.update(&arguments.function, count).await?;
                }
                samples
                    .push(connection.invoke(&arguments.function, &event).await.map_err(|error| format!("{error:#}")));
            }
        }));
    }
    let mut samples = Vec::new();
    for task in tasks {
        samples.extend(task.await??);
    }
    Ok(samples)
}

fn summary(samples: Vec<Result<Sample, String>>, elapsed: Duration) -> serde_json::Value {
    let mut durations_us = Vec::new();
    let mut by_placement = std::collections::BTreeMap::<String, Vec<u64>>::new();
    let mut errors = std::collections::BTreeMap::<String, usize>::new();
    let count = samples.len();
    for sample in samples {
        match sample {
            Ok(sample) => {
                let duration_us = u64::try_from(sample.duration.as_micros()).unwrap_or(u64::MAX);
                durations_us.push(duration_us);
                by_placement.entry(sample.placement).or_default().push(duration_us);
            }
            Err(error) => *errors.entry(error).or_default() += 1,
        }
    }
    durations_us.sort_unstable();
    by_placement.values_mut().for_each(|durations_us| durations_us.sort_unstable());
    let placements: std::collections::BTreeMap<_, _> =
        by_placement.iter().map(|(placement, durations_us)| (placement, durations_us.len())).collect();
    let medians_us: std::collections::BTreeMap<_, _> =
        by_placement.iter().map(|(placement, durations_us)| (placement, percentile(durations_us, 0.50))).collect();
    let percentile = |share| percentile(&durations_us, share);
    serde_json::json!({
        "requests": count,
        "errors": errors,
        "placements": placements,
        "p50_us_by_placement": medians_us,
        "p50_us": percentile(0.50),
        "p90_us": percentile(0.90),
        "p99_us": percentile(0.99),
        "max_us": percentile(1.0),
        "requests_per_s": (count as f64 / elapsed.as_secs_f64()).round(),
    })
}

/// The value below which a share of sorted ones lies.
fn percentile(sorted: &[u64], share: f64) -> Option<u64> {
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied()
}
