//! What an error of OpenDAL's says about a service's answer: its code, its HTTP status, whether it is about credentials.
//!
//! OpenDAL keeps none of it as a value, but in messages and contexts, from which it is read here. What `remote` makes of
//! it for the caller is its own.

use opendal::Error;

/// Returns what a person needs of an error: the service's code and message, or what the network said at last; not the
/// request, which may hold credentials, nor the headers of the answer.
pub(super) fn cause(error: &Error) -> String {
    let message = error.message();
    if let Some(code) = code(message) {
        return match field(message, "message") {
            Some(text) if !text.is_empty() => format!("{code}: {text}"),
            _ => code.to_owned(),
        };
    }
    let mut deepest: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(below) = deepest.and_then(|error| error.source()) {
        deepest = Some(below);
    }
    let mut told: String = message.trim().chars().take(300).collect();
    if told.is_empty() {
        // The answer to a HEAD has no body.
        let kind = error.kind().into_static();
        told = status(error).map_or(kind.to_owned(), |status| format!("HTTP status {status} ({kind})"));
    }
    if let Some(deepest) = deepest {
        told = format!("{told}: {deepest}");
    }
    told
}

/// Returns the HTTP status of a service's answer, which only OpenDAL's rendering of its head has.
fn status(error: &Error) -> Option<u16> {
    let shown = error.to_string();
    let (_, after) = shown.split_once("response: Parts { status: ")?;
    after.get(..3)?.parse().ok()
}

/// Returns whether nothing was sent, because no source of credentials had any; in OpenDAL's words.
pub(super) fn is_unsigned(error: &Error) -> bool {
    error.message().starts_with("signing ")
}

/// Returns what to do when nothing can be signed. OpenDAL keeps to itself why each source had nothing, so the hint names
/// those that the environment, told by `is_set`, points to.
pub(super) fn hint_for_unsigned(is_set: impl Fn(&str) -> bool) -> String {
    let sources = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_PROFILE",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AZURE_FEDERATED_TOKEN_FILE",
    ];
    let set: Vec<_> = sources.into_iter().filter(|name| is_set(name)).collect();
    match set.is_empty() {
        true => "give credentials in the URL, or where the service's own tools look".into(),
        false => format!("{} names a source that gave none: see that it is right and answers", set.join(", ")),
    }
}

/// Returns whether a HEAD was refused, whose answer cannot say why.
pub(super) fn is_bare(error: &Error) -> bool {
    error.message().trim().is_empty() && matches!(status(error), Some(400 | 401 | 403))
}

/// Returns whether other credentials may get another answer.
pub(super) fn blames_credentials(error: &Error) -> bool {
    let codes = [
        "ExpiredToken",
        "TokenRefreshRequired",
        "InvalidToken",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthenticationFailed",
    ];
    code(error.message()).is_some_and(|code| codes.contains(&code))
        || is_bare(error)
        || is_unsigned(error)
        || status(error) == Some(401)
}

/// Returns the error code of a service's answer, which OpenDAL shows as the debug form of a struct.
pub(super) fn code(message: &str) -> Option<&str> {
    field(message, "code").filter(|code| !code.is_empty())
}

fn field<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(&format!("{name}: \""))?;
    rest.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_credentials_is_told_where_they_were_to_come_from() {
        let hint = hint_for_unsigned(|name| name == "AWS_WEB_IDENTITY_TOKEN_FILE");
        assert_eq!(hint, "AWS_WEB_IDENTITY_TOKEN_FILE names a source that gave none: see that it is right and answers");
        assert!(hint_for_unsigned(|_| false).starts_with("give credentials in the URL"));
    }
}
