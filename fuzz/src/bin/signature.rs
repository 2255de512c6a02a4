//! Signed requests: header and query forms of Signature Version 4.

#![no_main]

use calypte_iam::{BodyDigest, Scope, SignedRequest, Verifier};
use calypte_types::{AccessKeyId, SecretAccessKey};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

// Lines: path, query, then `name: value` headers.
fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let path = lines.next().unwrap_or_default();
    let query = lines.next().unwrap_or_default();
    let mut headers = http::HeaderMap::new();
    for line in lines.take(64) {
        let Some((name, value)) = line.split_once(':') else { continue };
        if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), http::HeaderValue::from_str(value.trim())) {
            headers.append(name, value);
        }
    }
    let request = SignedRequest { method: "POST", path, query, headers: &headers, authority: None };
    let verifier = Verifier::new(Scope { region: None, services: vec!["lambda".to_owned()] });
    let now = time::OffsetDateTime::from_unix_timestamp(1_440_938_160).expect("a time in 2015");
    if let Ok(claim) = verifier.claim(&request, now) {
        let _: &AccessKeyId = claim.access_key_id();
        let secret = SecretAccessKey::new(SECRET.to_owned());
        let verdict = verifier.verify(&request, &claim, &secret, BodyDigest::of(b""));
        assert!(verdict.is_err(), "nobody has signed this request");
    }
});
