//! Invocations and authentication, through HTTP.

use std::time::{Duration, SystemTime};

use crate::support::{FUNCTIONS, Server, base64, create_request, zip};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use calypte_store::KeyStatus;
use calypte_types::SecretAccessKey;
use serde_json::{Value, json};

fn invocations(name: &str) -> String {
    format!("{FUNCTIONS}/{name}/invocations")
}

#[tokio::test]
async fn a_result_comes_with_its_figures() {
    let server = Server::start().await;
    server.create("hello").await;
    let answer =
        server.call_with("POST", &invocations("hello"), &[("x-amz-log-type", "Tail")], b"{\"a\":1}".into()).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"echo": {"a": 1}})));
    let log = BASE64_STANDARD.encode("START\nhello\nEND\n");
    for (header, value) in [
        ("x-amz-executed-version", Some("$LATEST")),
        ("x-amz-function-error", None),
        ("x-amz-log-result", Some(log.as_str())),
        ("x-calypte-placement", Some("boot")),
        ("x-calypte-duration-ms", Some("1.23")),
        ("x-calypte-init-duration-ms", Some("50.00")),
        ("content-type", Some("application/json")),
    ] {
        assert_eq!(answer.header(header), value, "{header}");
    }
    let request = server.stage.invocations.lock().unwrap().pop().unwrap();
    assert_eq!(answer.header("x-amzn-requestid"), Some(request.request_id.to_string().as_str()));
    assert_eq!(request.invoked_arn, format!("arn:aws:lambda:us-east-1:{}:function:hello", server.key.account));
    assert_eq!(request.spec.account, server.key.account);
    let without_log = server.invoke("hello", json!({})).await;
    assert_eq!(without_log.header("x-amz-log-result"), None);
}

#[tokio::test]
async fn a_failed_function_is_a_success_with_a_header() {
    let server = Server::start().await;
    server.create("hello").await;
    let answer = server.invoke("hello", json!("fail")).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-amz-function-error")), (200, Some("Unhandled")));
    assert_eq!(answer.json()["errorType"], "E");
}

#[tokio::test]
async fn what_did_not_run_is_an_error() {
    let server = Server::start().await;
    server.create("hello").await;
    let throttled = server.invoke("hello", json!("throttle")).await;
    throttled.expect_error(429, "TooManyRequestsException", "7 invocations wait");
    assert_eq!(throttled.json()["Reason"], "ConcurrentInvocationLimitExceeded");
    assert_eq!(throttled.header("retry-after"), Some("1"));
    server.invoke("hello", json!("break")).await.expect_error(500, "ServiceException", "starting an environment");
    server.invoke("nobody", json!({})).await.expect_error(404, "ResourceNotFoundException", ":function:nobody");
}

#[tokio::test]
async fn what_comes_with_the_event_is_passed_on() {
    let server = Server::start().await;
    server.create("hello").await;
    let context = BASE64_STANDARD.encode(r#"{"custom": {"a": "b"}}"#);
    let headers = [("x-amz-client-context", context.as_str()), ("x-amzn-trace-id", "Root=1-a-b;Sampled=0")];
    server.call_with("POST", &invocations("hello:$LATEST"), &headers, Vec::new()).await;
    let request = server.stage.invocations.lock().unwrap().pop().unwrap();
    assert_eq!(request.client_context.as_deref(), Some(r#"{"custom":{"a":"b"}}"#));
    assert_eq!(request.trace_id.as_deref(), Some("Root=1-a-b;Sampled=0"));
    assert_eq!(request.payload, b"{}");
    assert!(request.invoked_arn.ends_with(":function:hello:$LATEST"));
}

#[tokio::test]
async fn bad_invocations_are_refused_before_anything_runs() {
    let server = Server::start().await;
    server.create("hello").await;
    let content = (400, "InvalidRequestContentException");
    let parameter = (400, "InvalidParameterValueException");
    let none: &[(&str, &str)] = &[];
    let too_large = format!("\"{}\"", "x".repeat(6 * 1024 * 1024));
    for (headers, body, (status, name), part) in [
        (none, "{not json", content, "Could not parse request body into json"),
        (none, "'a'", content, "Could not parse request body into json"),
        (none, too_large.as_str(), (413, "RequestTooLargeException"), "6291456 bytes for the InvokeFunction"),
        (&[("x-amz-client-context", "***")], "{}", content, "Client context"),
        (&[("x-amz-invocation-type", "Event")], "{}", parameter, "InvocationType=Event is not supported"),
        (&[("x-amz-invocation-type", "Nothing")], "{}", parameter, "'invocationType'"),
        (&[("x-amz-log-type", "All")], "{}", parameter, "'logType'"),
        (&[("x-amz-tenant-id", "t")], "{}", parameter, "TenantId"),
        (&[("x-amz-durable-execution-name", "t")], "{}", parameter, "DurableExecutionName"),
    ] {
        let answer = server.call_with("POST", &invocations("hello"), headers, body.into()).await;
        answer.expect_error(status, name, part);
    }
    assert!(server.stage.invocations.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_dry_run_runs_nothing() {
    let server = Server::start().await;
    server.create("hello").await;
    let dry = [("x-amz-invocation-type", "DryRun")];
    let answer = server.call_with("POST", &invocations("hello"), &dry, b"{}".into()).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0));
    let answer = server.call_with("POST", &invocations("nobody"), &dry, b"{}".into()).await;
    answer.expect_error(404, "ResourceNotFoundException", "nobody");
    assert!(server.stage.invocations.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_package_without_a_bootstrap_fails_as_in_lambda() {
    let server = Server::start().await;
    for (name, package, part) in [
        (
            "none",
            zip(&[("main.py", "", 0o644)]),
            "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]",
        ),
        ("mode", zip(&[("bootstrap", "", 0o644)]), "fork/exec /var/task/bootstrap: permission denied"),
    ] {
        let mut request = create_request(name);
        request["Code"] = json!({"ZipFile": base64(&package)});
        assert_eq!(server.call("POST", FUNCTIONS, request).await.status, 201);
        let answer = server.call_with("POST", &invocations(name), &[("x-amz-log-type", "Tail")], vec![]).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-amz-function-error")), (200, Some("Unhandled")));
        assert_eq!(answer.json()["errorType"], "Runtime.InvalidEntrypoint");
        let log = BASE64_STANDARD.decode(answer.header("x-amz-log-result").unwrap()).unwrap();
        assert!(String::from_utf8(log).unwrap().contains(part));
        assert!(answer.json()["errorMessage"].as_str().unwrap().contains(part), "{}", answer.json());
    }
}

#[tokio::test]
async fn a_runtime_that_was_removed_is_an_error_of_the_call() {
    let server = Server::start().await;
    let mut request = create_request("py");
    request["Runtime"] = json!("python3.11");
    assert_eq!(server.call("POST", FUNCTIONS, request).await.status, 201);
    let images = calypte_worker::image::Images::open(server.folder.path().join("data/runtimes")).unwrap();
    images.remove("python3.11").unwrap();
    server.invoke("py", json!({})).await.expect_error(502, "InvalidRuntimeException", "not installed");
}

#[tokio::test]
async fn only_signed_requests_are_served() {
    let server = Server::start().await;
    server.create("hello").await;
    let request = || server.request("POST", &invocations("hello"), &[], b"{}".to_vec());
    let missing = "MissingAuthenticationTokenException";
    server.send(request()).await.expect_error(403, missing, "Missing Authentication Token");

    let mut wrong_secret = server.signer();
    wrong_secret.secret = SecretAccessKey::new("wrong".repeat(8));
    let mut unknown_key = server.signer();
    unknown_key.access_key_id = "AKIAAAAAAAAAAAAAAAAA".parse().unwrap();
    let mut wrong_service = server.signer();
    wrong_service.service = "s3".into();
    for (signer, age_s, name) in [
        (&wrong_secret, 0, "InvalidSignatureException"),
        (&unknown_key, 0, "UnrecognizedClientException"),
        (&wrong_service, 0, "InvalidSignatureException"),
        (&server.signer(), 3600, "InvalidSignatureException"),
    ] {
        let mut request = request();
        signer.sign(&mut request, SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        server.send(request).await.expect_error(403, name, "");
    }

    let mut altered = request();
    server.signer().sign(&mut altered, SystemTime::now()).unwrap();
    *altered.body_mut() = b"[]".to_vec();
    server.send(altered).await.expect_error(403, "InvalidSignatureException", "does not match");

    let mut presigned = server.request("GET", &format!("{FUNCTIONS}/hello"), &[], vec![]);
    server.signer().presign(&mut presigned, SystemTime::now(), Duration::from_secs(60)).unwrap();
    assert_eq!(server.send(presigned).await.status, 200);
    assert!(server.stage.invocations.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_disabled_key_is_refused_at_once() {
    let server = Server::start().await;
    assert_eq!(server.call("GET", FUNCTIONS, Value::Null).await.status, 200);
    server.control.store().set_access_key_status(&server.key.id, KeyStatus::Inactive).await.unwrap();
    server.control.forget_access_key(&server.key.id);
    server.call("GET", FUNCTIONS, Value::Null).await.expect_error(403, "UnrecognizedClientException", "");
}

#[tokio::test]
async fn accounts_do_not_see_each_other() {
    let server = Server::start().await;
    let arn = server.create("hello").await["FunctionArn"].as_str().unwrap().to_owned();
    let store = server.control.store();
    let other = store.create_account("two").await.unwrap();
    let key = store.create_access_key(&other.id).await.unwrap();
    let mut signer = server.signer();
    (signer.access_key_id, signer.secret) = (key.id, key.secret);
    for (method, path, status, name) in [
        ("GET", format!("{FUNCTIONS}/hello"), 404, "ResourceNotFoundException"),
        ("GET", format!("{FUNCTIONS}/{arn}"), 403, "AccessDeniedException"),
        ("DELETE", format!("{FUNCTIONS}/hello"), 404, "ResourceNotFoundException"),
        ("POST", invocations("hello"), 404, "ResourceNotFoundException"),
        ("POST", invocations(&arn), 403, "AccessDeniedException"),
    ] {
        let mut request = server.request(method, &path, &[], vec![]);
        signer.sign(&mut request, SystemTime::now()).unwrap();
        server.send(request).await.expect_error(status, name, "");
    }
    let mut list = server.request("GET", FUNCTIONS, &[], vec![]);
    signer.sign(&mut list, SystemTime::now()).unwrap();
    assert_eq!(server.send(list).await.json(), json!({"Functions": []}));
}

#[tokio::test]
async fn other_paths_and_methods_are_no_operations() {
    let server = Server::start().await;
    for (method, path) in
        [("GET", "/"), ("PATCH", FUNCTIONS), ("GET", "/2015-03-31/layers"), ("PUT", "/2015-03-31/functions/a")]
    {
        server.call(method, path, Value::Null).await.expect_error(404, "UnknownOperationException", path);
    }
}
