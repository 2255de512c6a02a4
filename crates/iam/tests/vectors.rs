//! AWS's signing test suite.

use calypte_iam::{AuthError, BodyDigest, Scope, SignedRequest, Verifier};
use calypte_types::SecretAccessKey;
use http::{HeaderMap, HeaderName, HeaderValue};
use time::macros::datetime;

/// A request in text form, taken apart.
struct Parsed {
    method: String,
    path: String,
    query: String,
    headers: HeaderMap,
    body: String,
}

fn parse(text: &str) -> Parsed {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let request_line = lines.next().unwrap().strip_suffix(" HTTP/1.1").unwrap();
    let (method, target) = request_line.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        match fields.last_mut() {
            // A folded line; HTTP/1.1 servers get it unfolded.
            Some((_, value)) if line.starts_with(' ') => value.push_str(line),
            _ => {
                let (name, value) = line.split_once(':').unwrap();
                fields.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let value = HeaderValue::from_bytes(value.trim().as_bytes()).unwrap();
        headers.append(name.parse::<HeaderName>().unwrap(), value);
    }
    let [method, path, query, body] = [method, path, query, body].map(str::to_owned);
    Parsed { method, path, query, headers, body }
}

fn verify(request: &Parsed) -> Result<(), AuthError> {
    let verifier = Verifier::new(Scope { region: Some("us-east-1".to_owned()), services: vec!["service".to_owned()] });
    let signed = SignedRequest {
        method: &request.method,
        path: &request.path,
        query: &request.query,
        headers: &request.headers,
        authority: None,
    };
    let claim = verifier.claim(&signed, datetime!(2015-08-30 12:36:00 UTC))?;
    let secret = SecretAccessKey::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    verifier.verify(&signed, &claim, &secret, BodyDigest::of(request.body.as_bytes()))
}

#[test]
fn the_requests_of_the_suite_verify() {
    let suite: serde_json::Value = serde_json::from_str(include_str!("data/signing-test-suite.json")).unwrap();
    let cases = suite.as_array().unwrap();
    let mut verified = 0;
    for case in cases {
        for form in ["header_form", "query_form"] {
            let mut request = parse(case[form].as_str().unwrap());
            let result = verify(&request);
            if case["has_session_token"].as_bool().unwrap() {
                assert!(result.is_err(), "{} {form}: there are no temporary keys", case["name"]);
                continue;
            }
            assert_eq!(result, Ok(()), "{} {form}", case["name"]);
            verified += 1;
            request.method = "PATCH".to_owned();
            assert!(verify(&request).is_err(), "{} {form}: the check checks", case["name"]);
        }
    }
    assert_eq!(verified, 56, "of {} cases", cases.len());
}
