//! A server on a data folder of its own, with everything real but the environments: those are played by [`Stage`].

use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use calypte_control::{Control, Executor, Invocation};
use calypte_iam::sign::Signer;
use calypte_store::{AccessKey, Store};
use calypte_types::{AccountId, FunctionName};
use calypte_worker::code::CodeCache;
use calypte_worker::image::Images;
use calypte_worker::{FunctionError, InvokeError, InvokeOutcome, InvokeRequest, PlacementRung, Report, ThrottleReason};
use serde_json::{Value, json};
use tower::ServiceExt;

pub(crate) const ROLE: &str = "arn:aws:iam::123456789012:role/lambda";
pub(crate) const FUNCTIONS: &str = "/2015-03-31/functions";

/// Plays the environments: answers what the event asks for and remembers what it was asked.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) invocations: Mutex<Vec<InvokeRequest>>,
    pub(crate) retired: Mutex<Vec<(String, Option<String>)>>,
}

impl Executor for Stage {
    fn invoke(&self, request: InvokeRequest) -> Invocation<'_> {
        let event: Value = serde_json::from_slice(&request.payload).unwrap();
        self.invocations.lock().unwrap().push(request);
        let outcome = |payload: Value, error| InvokeOutcome {
            payload: payload.to_string().into_bytes(),
            error,
            report: Report {
                duration: Duration::from_micros(1234),
                init_duration: Some(Duration::from_millis(50)),
                restore_duration: None,
                memory_peak_bytes: 1 << 20,
                rung: PlacementRung::Boot,
            },
            log_tail: b"START\nhello\nEND\n".to_vec(),
        };
        let result = match event.as_str() {
            Some("fail") => {
                Ok(outcome(json!({"errorMessage": "no", "errorType": "E"}), Some(FunctionError::Unhandled)))
            }
            Some("throttle") => Err(InvokeError::Throttled { reason: ThrottleReason::QueueFull { waiting: 7 } }),
            Some("break") => Err(InvokeError::Environment("no zygote".into())),
            _ => Ok(outcome(json!({"echo": event}), None)),
        };
        Box::pin(async { result })
    }

    fn retire(&self, _: &AccountId, function: &FunctionName, keep: Option<&str>) {
        self.retired.lock().unwrap().push((function.to_string(), keep.map(str::to_owned)));
    }
}

pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) control: Arc<Control>,
    pub(crate) stage: Arc<Stage>,
    pub(crate) key: AccessKey,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks that it is this error and that its text contains `part`.
    #[track_caller]
    pub(crate) fn expect_error(&self, status: u16, name: &str, part: &str) {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!((self.status.as_u16(), self.header("x-amzn-errortype")), (status, Some(name)), "{body}");
        let json = self.json();
        let text = json["message"].as_str().or(json["Message"].as_str()).unwrap_or_default();
        assert!(text.contains(part), "{text:?} does not contain {part:?}");
        assert!(self.header("x-amzn-requestid").is_some());
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let store = Store::open(&data).await.unwrap();
        let account = store.create_account("one").await.unwrap();
        let key = store.create_access_key(&account.id).await.unwrap();
        let images = Images::open(data.join("runtimes")).unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("file"), "content").unwrap();
        images.add_from_directory("python3.11", &root, &mut |_| ()).unwrap();
        let code = CodeCache::open(data.join("code")).unwrap();
        let stage = Arc::new(Stage::default());
        let executor = Arc::clone(&stage) as Arc<dyn Executor>;
        let control = Arc::new(Control::new(store, executor, images, code, "us-east-1").unwrap());
        Self { router: calypte_api::router(Arc::clone(&control)), control, stage, key, folder }
    }

    pub(crate) fn signer(&self) -> Signer {
        Signer {
            access_key_id: self.key.id.clone(),
            secret: self.key.secret.clone(),
            region: "us-east-1".into(),
            service: "lambda".into(),
        }
    }

    /// An unsigned request.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Request<Vec<u8>> {
        let uri = format!("http://localhost:7070{path}");
        let builder = Request::builder().method(method).uri(uri).header("host", "localhost:7070");
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(body).unwrap()
    }

    pub(crate) async fn send(&self, request: Request<Vec<u8>>) -> Answer {
        let (mut parts, body) = request.into_parts();
        // On the wire the request line has no host.
        parts.uri = parts.uri.path_and_query().unwrap().as_str().parse().unwrap();
        let request = Request::from_parts(parts, Body::from(body));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// A signed request.
    pub(crate) async fn call_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let mut request = self.request(method, path, headers, body);
        self.signer().sign(&mut request, SystemTime::now()).unwrap();
        self.send(request).await
    }

    /// A signed request with a JSON body, or none.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.call_with(method, path, &[("content-type", "application/json")], body).await
    }

    /// Creates a function that brings its own runtime.
    pub(crate) async fn create(&self, name: &str) -> Value {
        let answer = self.call("POST", FUNCTIONS, create_request(name)).await;
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    pub(crate) async fn invoke(&self, name: &str, event: Value) -> Answer {
        self.call("POST", &format!("{FUNCTIONS}/{name}/invocations"), event).await
    }
}

pub(crate) fn create_request(name: &str) -> Value {
    json!({
        "FunctionName": name, "Runtime": "provided.al2023", "Handler": "h", "Role": ROLE,
        "Code": {"ZipFile": base64(&zip(&[("bootstrap", "#!/bin/true", 0o755)]))},
    })
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

/// An archive of files: name, content, mode.
pub(crate) fn zip(files: &[(&str, &str, u32)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content, mode) in files {
        archive.start_file(*name, zip::write::SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
        archive.write_all(content.as_bytes()).unwrap();
    }
    archive.finish().unwrap().into_inner()
}
