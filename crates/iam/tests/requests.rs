//! Requests as clients of today sign them (AWS's own crate is the client), and what must not verify.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use calypte_iam::sign::Signer;
use calypte_iam::{AuthError, BodyDigest, Scope, SignedRequest, Verifier};
use calypte_types::{AccessKeyId, SecretAccessKey};
use http::{HeaderName, HeaderValue, Request};
use proptest::prelude::*;
use time::OffsetDateTime;

const NOW_S: u64 = 1_800_000_000;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S)
}

fn signer() -> Signer {
    Signer {
        access_key_id: AccessKeyId::from_entropy([7; 10]),
        secret: SecretAccessKey::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        region: "eu-central-1".to_owned(),
        service: "lambda".to_owned(),
    }
}

fn verifier() -> Verifier {
    Verifier::new(Scope { region: Some("eu-central-1".to_owned()), services: vec!["lambda".to_owned()] })
}

/// As a server gets it: the client puts the authority into `host`.
fn received(mut request: Request<Vec<u8>>) -> Request<Vec<u8>> {
    let host = request.uri().authority().unwrap().as_str().to_owned();
    request.headers_mut().insert("host", HeaderValue::from_str(&host).unwrap());
    let target = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
    *request.uri_mut() = target;
    request
}

fn check_at(request: Request<Vec<u8>>, seconds: i64) -> Result<(), AuthError> {
    check_with(&verifier(), request, seconds, &signer().secret)
}

fn check_with(
    verifier: &Verifier,
    request: Request<Vec<u8>>,
    seconds: i64,
    secret: &SecretAccessKey,
) -> Result<(), AuthError> {
    let (parts, body) = request.into_parts();
    let now = OffsetDateTime::from(now()) + time::Duration::seconds(seconds);
    let signed = SignedRequest::from(&parts);
    let claim = verifier.claim(&signed, now)?;
    if *claim.access_key_id() != signer().access_key_id {
        return Err(AuthError::UnknownKey);
    }
    verifier.verify(&signed, &claim, secret, BodyDigest::of(&body))
}

fn invocation() -> Request<Vec<u8>> {
    Request::post("http://127.0.0.1:7070/2015-03-31/functions/arn%3Aaws%3Alambda/invocations?Qualifier=LATEST&x=a%20b")
        .header("content-type", "application/json")
        .header("x-amz-invocation-type", "RequestResponse")
        .header("user-agent", "any")
        .body(b"{\"key\": \"value\"}".to_vec())
        .unwrap()
}

fn signed() -> Request<Vec<u8>> {
    let mut request = invocation();
    signer().sign(&mut request, now()).unwrap();
    received(request)
}

fn presigned(expires_in_s: u64) -> Request<Vec<u8>> {
    let mut request = invocation();
    signer().presign(&mut request, now(), Duration::from_secs(expires_in_s)).unwrap();
    received(request)
}

fn with_header(mut request: Request<Vec<u8>>, name: &'static str, value: &str) -> Request<Vec<u8>> {
    request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    request
}

fn authorization_with(from: &str, to: &str) -> Request<Vec<u8>> {
    let request = signed();
    let text = request.headers()["authorization"].to_str().unwrap().to_owned();
    assert!(text.contains(from), "{text}");
    with_header(request, "authorization", &text.replace(from, to))
}

#[test]
fn both_forms_verify_again_and_again() {
    let verifier = verifier();
    for _ in 0..3 {
        assert_eq!(check_with(&verifier, signed(), 0, &signer().secret), Ok(()));
        assert_eq!(check_with(&verifier, presigned(60), 0, &signer().secret), Ok(()));
    }
}

#[test]
fn a_remembered_key_does_not_let_anything_else_in() {
    let verifier = verifier();
    assert_eq!(check_with(&verifier, signed(), 0, &signer().secret), Ok(()));
    let altered = with_header(signed(), "x-amz-invocation-type", "DryRun");
    assert!(check_with(&verifier, altered, 0, &signer().secret).is_err());
}

#[test]
fn the_wrong_secret_is_refused() {
    let wrong = SecretAccessKey::new("xJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    let error = check_with(&verifier(), signed(), 0, &wrong).unwrap_err();
    assert_eq!(error.code(), "InvalidSignatureException");
}

#[test]
fn signatures_age() {
    for (seconds, is_good) in [(0, true), (299, true), (-299, true), (301, false), (-301, false), (86_400, false)] {
        assert_eq!(check_at(signed(), seconds).is_ok(), is_good, "header form, {seconds} s later");
    }
    for (seconds, is_good) in [(0, true), (3_600, true), (3_601, false), (-299, true), (-301, false)] {
        assert_eq!(check_at(presigned(3_600), seconds).is_ok(), is_good, "query form, {seconds} s later");
    }
    assert_eq!(check_at(presigned(604_800), 604_800), Ok(()));
}

#[test]
fn refusals_say_what_is_wrong() {
    let key_id = signer().access_key_id;
    let cases: Vec<(&str, Request<Vec<u8>>, &str, &str)> = vec![
        ("unsigned", received(invocation()), "MissingAuthenticationTokenException", "Missing"),
        (
            "another scheme",
            with_header(signed(), "authorization", "Bearer x"),
            "IncompleteSignatureException",
            "'Bearer'",
        ),
        ("empty", with_header(signed(), "authorization", ""), "IncompleteSignatureException", "algorithm"),
        (
            "no fields",
            with_header(signed(), "authorization", "AWS4-HMAC-SHA256 "),
            "IncompleteSignatureException",
            "requires 'Credential' parameter",
        ),
        ("no signature", authorization_with(", Signature=", ", X="), "IncompleteSignatureException", "unexpected"),
        ("four parts", authorization_with("/aws4_request", ""), "IncompleteSignatureException", "5 slash-delimited"),
        ("terminator", authorization_with("aws4_request", "aws5"), "InvalidSignatureException", "aws4_request"),
        ("region", authorization_with("eu-central-1", "us-east-1"), "InvalidSignatureException", "'eu-central-1'"),
        ("service", authorization_with("/lambda/", "/s3/"), "InvalidSignatureException", "'lambda'"),
        ("key id", authorization_with(key_id.as_str(), "A!"), "UnrecognizedClientException", "invalid"),
        ("short signature", authorization_with("Signature=", "Signature=a"), "InvalidSignatureException", "not match"),
        ("host not signed", authorization_with("host;", ""), "InvalidSignatureException", "Host"),
        (
            "a header that matters is not signed",
            with_header(signed(), "x-amz-client-context", "e30="),
            "InvalidSignatureException",
            "x-amz-client-context",
        ),
        (
            "order",
            authorization_with("content-type;host", "host;content-type"),
            "IncompleteSignatureException",
            "order",
        ),
        (
            "absent header",
            authorization_with("content-type;", "content-typf;"),
            "InvalidSignatureException",
            "content-typf",
        ),
        ("date", with_header(signed(), "x-amz-date", "yesterday"), "IncompleteSignatureException", "ISO-8601"),
        (
            "no date",
            without_header(authorization_with("x-amz-date;", ""), "x-amz-date"),
            "IncompleteSignatureException",
            "X-Amz-Date",
        ),
        (
            "stated digest of another body",
            signed_with("x-amz-content-sha256", &"ab".repeat(32)),
            "InvalidSignatureException",
            "x-amz-content-sha256",
        ),
        (
            "body not signed",
            signed_with("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            "IncompleteSignatureException",
            "UNSIGNED-PAYLOAD",
        ),
        ("session token", signed_with("x-amz-security-token", "abc"), "UnrecognizedClientException", "token"),
        ("expiry too long", presigned(604_801), "IncompleteSignatureException", "604800"),
        ("both forms", with_header(presigned(60), "authorization", "x"), "IncompleteSignatureException", "and"),
    ];
    for (name, request, code, text) in cases {
        let error = check_at(request, 0).expect_err(name);
        assert_eq!(error.code(), code, "{name}: {error}");
        assert!(error.to_string().contains(text), "{name}: {error}");
    }
}

fn without_header(mut request: Request<Vec<u8>>, name: &str) -> Request<Vec<u8>> {
    request.headers_mut().remove(name);
    request
}

fn signed_with(name: &'static str, value: &str) -> Request<Vec<u8>> {
    let mut request = with_header(invocation(), name, value);
    signer().sign(&mut request, now()).unwrap();
    received(request)
}

#[test]
fn a_repeated_signature_header_is_refused() {
    for name in ["authorization", "x-amz-date"] {
        let mut request = signed();
        let value = request.headers()[name].clone();
        request.headers_mut().append(name, value);
        assert_eq!(check_at(request, 0).unwrap_err().code(), "IncompleteSignatureException", "{name}");
    }
    let mut request = presigned(60);
    *request.uri_mut() = format!("{}&X-Amz-Date=20270115T080000Z", request.uri()).parse().unwrap();
    assert_eq!(check_at(request, 0).unwrap_err().code(), "IncompleteSignatureException");
}

#[test]
fn no_byte_can_be_changed() {
    for (form, original) in [("header", signed()), ("query", presigned(60))] {
        let target = original.uri().to_string();
        for place in 1..target.len() {
            let mut changed = target.clone().into_bytes();
            // Not between %3B and %3b, which say the same.
            changed[place] = if changed[place].eq_ignore_ascii_case(&b'b') { b'c' } else { b'b' };
            let Ok(uri) = String::from_utf8(changed).unwrap().parse() else { continue };
            let mut request = original.clone();
            *request.uri_mut() = uri;
            assert!(check_at(request, 0).is_err(), "{form} form, target byte {place} of {target}");
        }
        for (name, value) in original.headers().clone() {
            let name = name.unwrap();
            if name == "user-agent" {
                continue;
            }
            for place in 0..value.len() {
                let mut changed = value.as_bytes().to_vec();
                changed[place] ^= 1;
                let Ok(value) = HeaderValue::from_bytes(&changed) else { continue };
                let mut request = original.clone();
                request.headers_mut().insert(&name, value.clone());
                assert!(check_at(request, 0).is_err(), "{form} form, byte {place} of {name}: {value:?}");
            }
        }
        for place in 0..original.body().len() {
            let mut request = original.clone();
            request.body_mut()[place] ^= 1;
            assert!(check_at(request, 0).is_err(), "{form} form, body byte {place}");
        }
        let mut request = original.clone();
        *request.method_mut() = http::Method::PUT;
        assert!(check_at(request, 0).is_err(), "{form} form, method");
    }
}

#[test]
fn a_presigned_body_may_be_left_open_if_the_url_says_so() {
    let key = signer();
    let identity = Credentials::new(key.access_key_id.as_str(), key.secret.expose(), None, None, "test").into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(Duration::from_secs(60));
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(&key.region)
        .name(&key.service)
        .time(now())
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let sign_uri = |uri: &str| {
        let mut request = Request::put(uri).body(b"decided later".to_vec()).unwrap();
        let signable = SignableRequest::new("PUT", uri, std::iter::empty(), SignableBody::UnsignedPayload).unwrap();
        sign(signable, &parameters).unwrap().into_parts().0.apply_to_request_http1x(&mut request);
        received(request)
    };
    assert_eq!(check_at(sign_uri("http://localhost/x?X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"), 0), Ok(()));
    assert!(check_at(sign_uri("http://localhost/x"), 0).is_err(), "not unless it says so");
}

prop_compose! {
    fn any_request()(
        method in "GET|PUT|POST|DELETE",
        segments in prop::collection::vec("[a-zA-Z0-9._~:@$-]{0,8}|%[2-7][0-9A-F]|\\.\\.|\\.", 0..6),
        query in prop::collection::vec(("[a-zA-Z0-9._~$+-]{1,6}|%[2-7][0-9A-F]", prop::option::of("([a-zA-Z0-9._~/:=+-]|%[0-7][0-9A-F]){0,8}")), 0..5),
        headers in prop::collection::vec(("x-(amz-)?[a-z][a-z0-9-]{0,10}", "[ -~é]{0,20}"), 0..6),
        body in prop::collection::vec(any::<u8>(), 0..64),
        has_port in any::<bool>(),
    ) -> Option<Request<Vec<u8>>> {
        let query: Vec<String> = query.into_iter()
            .map(|(name, value)| match value { Some(value) => format!("{name}={value}"), None => name })
            .collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let port = if has_port { ":7070" } else { "" };
        let uri = format!("http://localhost{port}/{}{mark}{}", segments.join("/"), query.join("&"));
        let mut request = Request::builder().method(method.as_str()).uri(uri);
        for (name, value) in headers {
            let is_special = name.starts_with("x-amz-date") || name.starts_with("x-amz-s") || name.starts_with("x-amz-c")
                || name.starts_with("x-amz-u");
            if !is_special {
                request = request.header(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value.trim()).ok()?);
            }
        }
        request.body(body).ok()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_aws_crate_signs_verifies(request in any_request(), is_presigned in any::<bool>()) {
        let Some(mut request) = request else { return Ok(()) };
        if is_presigned {
            signer().presign(&mut request, now(), Duration::from_secs(60)).unwrap();
        } else {
            signer().sign(&mut request, now()).unwrap();
        }
        prop_assert_eq!(check_at(received(request.clone()), 0), Ok(()), "{:?}", request);
    }

    #[test]
    fn no_header_makes_the_verifier_panic(text in "\\PC{0,80}", field in 0..4_usize) {
        let text = match field {
            0 => text,
            1 => format!("AWS4-HMAC-SHA256 {text}"),
            2 => format!("AWS4-HMAC-SHA256 Credential={text}, SignedHeaders=host, Signature=00"),
            _ => format!("AWS4-HMAC-SHA256 Credential=A/20270115/eu-central-1/lambda/aws4_request, SignedHeaders={text}"),
        };
        if let Ok(value) = HeaderValue::from_str(&text) {
            let mut request = signed();
            request.headers_mut().insert("authorization", value.clone());
            request.headers_mut().insert("x-amz-date", value);
            prop_assert!(check_at(request, 0).is_err());
        }
    }
}
