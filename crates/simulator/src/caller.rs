//! The caller of a request, read from its signature.

/// The access key and the region of a caller. The signature is not verified.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Caller {
    pub(super) access_key: Option<String>,
    pub(super) region: Option<String>,
}

impl Caller {
    /// Reads the `Authorization` header: `AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request,
    /// ...`.
    pub(super) fn read(authorization: Option<&str>) -> Self {
        let scope = authorization
            .and_then(|header| header.split_once("Credential="))
            .map_or("", |(_, rest)| rest.split([',', ' ']).next().unwrap_or(""));
        let mut parts = scope.split('/').filter(|part| !part.is_empty());
        Self { access_key: parts.next().map(str::to_owned), region: parts.nth(1).map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_read_from_the_signature() {
        let header = "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20240808/eu-west-1/cognito-idp/aws4_request, SignedHeaders=host, Signature=0";
        let caller = Caller::read(Some(header));
        assert_eq!(caller.access_key.as_deref(), Some("AKIAEXAMPLE"));
        assert_eq!(caller.region.as_deref(), Some("eu-west-1"));
        assert_eq!(Caller::read(Some("Bearer x")), Caller::default());
    }
}
