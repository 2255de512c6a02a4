//! The parts of a request that a signature covers.

use http::HeaderMap;

/// A request as it arrived, body apart.
#[derive(Debug, Clone, Copy)]
pub struct SignedRequest<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// The path exactly as on the request line, percent-encoding included.
    pub path: &'a str,
    /// What follows `?` on the request line, or nothing.
    pub query: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The authority of an HTTP/2 request, which has no `host` header.
    pub authority: Option<&'a str>,
}

impl<'a> From<&'a http::request::Parts> for SignedRequest<'a> {
    fn from(parts: &'a http::request::Parts) -> Self {
        Self {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            headers: &parts.headers,
            authority: parts.uri.authority().map(http::uri::Authority::as_str),
        }
    }
}

impl SignedRequest<'_> {
    /// The value of a header that may occur only once.
    ///
    /// # Errors
    /// The header's name, when it occurs twice or is not text.
    pub(crate) fn single_header<'n>(&self, name: &'n str) -> Result<Option<&str>, &'n str> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => value.to_str().map(Some).map_err(|_| name),
            (Some(_), Some(_)) => Err(name),
        }
    }
}
