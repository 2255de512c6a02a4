//! The canonical form of a request: the text whose digest is signed.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::SignedRequest;

/// Everything but `A-Z a-z 0-9 - . _ ~` is encoded, as AWS asks for.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Slashes separate the segments of a path.
const PATH: &AsciiSet = &QUERY.remove(b'/');
/// The query parameter that is the signature itself.
pub(crate) const SIGNATURE_PARAMETER: &str = "X-Amz-Signature";

/// The canonical request. `signed_headers` are lower-case names in order; `payload` is the digest of the body in
/// hexadecimal, or `UNSIGNED-PAYLOAD`.
pub(crate) fn canonical_request(request: &SignedRequest<'_>, signed_headers: &[String], payload: &str) -> Vec<u8> {
    /// Fits the requests of usual clients without growing.
    const CAPACITY: usize = 1024;
    let mut text = Vec::with_capacity(CAPACITY);
    text.extend_from_slice(request.method.as_bytes());
    text.push(b'\n');
    for part in percent_encode(normal_path(request.path).as_bytes(), PATH) {
        text.extend_from_slice(part.as_bytes());
    }
    text.push(b'\n');
    text.extend_from_slice(canonical_query(request.query).as_bytes());
    text.push(b'\n');
    for name in signed_headers {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        push_header_values(&mut text, request, name);
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(signed_headers.join(";").as_bytes());
    text.push(b'\n');
    text.extend_from_slice(payload.as_bytes());
    text
}

/// The path without `.`, `..` and empty segments (RFC 3986, 5.2.4); a final slash stays.
fn normal_path(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') && !path.contains("//") && !path.contains("/.") {
        return Cow::Borrowed(path);
    }
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let is_folder = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    let end = if is_folder && !segments.is_empty() { "/" } else { "" };
    Cow::Owned(format!("/{}{end}", segments.join("/")))
}

/// Parameters in the order of their encoded names, then values, without the signature.
fn canonical_query(query: &str) -> String {
    let mut parameters: Vec<(String, String)> = parameters(query)
        .filter(|(name, _)| name != SIGNATURE_PARAMETER.as_bytes())
        .map(|(name, value)| (percent_encode(&name, QUERY).to_string(), percent_encode(&value, QUERY).to_string()))
        .collect();
    parameters.sort();
    parameters.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// The decoded names and values of a query string. As in every form, `+` is a space: what is signed is what the
/// service will read.
pub(crate) fn parameters(query: &str) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let decode = |text: &str| -> Vec<u8> {
        if text.contains('+') {
            percent_decode_str(&text.replace('+', " ")).collect()
        } else {
            percent_decode_str(text).collect()
        }
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// All values of a header in the order of their arrival, separated by commas, each trimmed and with single spaces.
fn push_header_values(text: &mut Vec<u8>, request: &SignedRequest<'_>, name: &str) {
    let mut values = request.headers.get_all(name).iter().peekable();
    if values.peek().is_none() && name == "host" {
        text.extend_from_slice(request.authority.unwrap_or_default().as_bytes());
    }
    let mut is_first = true;
    for value in values {
        if !std::mem::take(&mut is_first) {
            text.push(b',');
        }
        let mut words = value.as_bytes().split(|byte| *byte == b' ' || *byte == b'\t').filter(|word| !word.is_empty());
        if let Some(word) = words.next() {
            text.extend_from_slice(word);
        }
        for word in words {
            text.push(b' ');
            text.extend_from_slice(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_as_rfc_3986_says() {
        for (path, expected) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/a//b", "/a/b"),
            ("/a/./b/.", "/a/b/"),
            ("/a/../..", "/"),
            ("/a/b/..", "/a/"),
            ("/.hidden", "/.hidden"),
            ("/a/", "/a/"),
            ("a", "/a"),
        ] {
            assert_eq!(normal_path(path), expected, "{path:?}");
        }
    }

    #[test]
    fn queries_are_sorted_by_their_encoded_form() {
        for (query, expected) in [
            ("", ""),
            ("b=2&a=1", "a=1&b=2"),
            ("a", "a="),
            ("a=b=c", "a=b%3Dc"),
            ("a=2&a=1&a", "a=&a=1&a=2"),
            ("&&a=1&", "a=1"),
            ("a=x+y&b=%2b", "a=x%20y&b=%2B"),
            ("a=%zz&b=%", "a=%25zz&b=%25"),
            ("X-Amz-Signature=abc&x-amz-signature=def", "x-amz-signature=def"),
        ] {
            assert_eq!(canonical_query(query), expected, "{query:?}");
        }
    }
}
