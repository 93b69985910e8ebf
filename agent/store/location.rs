//! Where a URL points to: service, bucket, prefix, and the parameters that a service takes.
//!
//! A parameter that nobody knows is an error that names the nearest known one; so is a value that cannot be right.
//! Values are decoded from their percent form; a `+` stays one, because secret keys have it. Nothing of a URL but
//! service, bucket and prefix is ever shown.

use std::time::Duration;

use crate::error::{Error, Result};

/// How long an attempt may take if the URL does not say. Half of it needs twice the link (see `remote`), with double of
/// it twice the time passes before a silent store is told of.
const TIME_OUT: Duration = Duration::from_secs(10);

/// What a value must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    /// Text that is in no message.
    Secret,
    Switch,
    HttpUrl,
    Seconds,
}

/// A parameter: its name, what OpenDAL calls it (empty: we use it ourselves), its form.
type Parameter = (&'static str, &'static str, Form);

/// A service: its scheme, what OpenDAL calls the thing that holds its objects, and its parameters.
struct Service {
    scheme: &'static str,
    container: &'static str,
    parameters: &'static [Parameter],
}

/// `docs/stores.md` says what each is for.
const SERVICES: [Service; 3] = [
    Service {
        scheme: "s3",
        container: "bucket",
        parameters: &[
            ("region", "region", Form::Text),
            ("endpoint", "endpoint", Form::HttpUrl),
            ("path_style", "", Form::Switch),
            ("access_key", "access_key_id", Form::Secret),
            ("secret_key", "secret_access_key", Form::Secret),
            ("session_token", "session_token", Form::Secret),
            ("profile", "profile", Form::Text),
            ("role_arn", "role_arn", Form::Text),
            ("external_id", "external_id", Form::Text),
            ("anonymous", "skip_signature", Form::Switch),
            ("storage_class", "default_storage_class", Form::Text),
            ("sse", "server_side_encryption", Form::Text),
            ("sse_kms_key", "server_side_encryption_aws_kms_key_id", Form::Text),
            ("checksum", "checksum_algorithm", Form::Text),
            ("requester_pays", "enable_request_payer", Form::Switch),
            ("timeout", "", Form::Seconds),
        ],
    },
    Service {
        scheme: "gcs",
        container: "bucket",
        parameters: &[
            ("credential", "credential", Form::Secret),
            ("credential_path", "credential_path", Form::Text),
            ("service_account", "service_account", Form::Text),
            ("anonymous", "skip_signature", Form::Switch),
            ("endpoint", "endpoint", Form::HttpUrl),
            ("storage_class", "default_storage_class", Form::Text),
            ("timeout", "", Form::Seconds),
        ],
    },
    Service {
        scheme: "azblob",
        container: "container",
        parameters: &[
            ("account_name", "account_name", Form::Text),
            ("account_key", "account_key", Form::Secret),
            ("sas_token", "sas_token", Form::Secret),
            ("anonymous", "skip_signature", Form::Switch),
            ("endpoint", "endpoint", Form::HttpUrl),
            ("timeout", "", Form::Seconds),
        ],
    },
];

/// A place in an object store.
pub(super) struct Location {
    pub(super) scheme: &'static str,
    /// The URL as it may be shown.
    pub(super) shown: String,
    /// What OpenDAL is told.
    pub(super) options: Vec<(String, String)>,
    /// How long an attempt may take.
    pub(super) time_out: Duration,
}

impl Location {
    /// Reads a URL, split at its `://`.
    pub(super) fn parse(scheme: &str, rest: &str) -> Result<Self> {
        let shown = without_secrets(&format!("{scheme}://{rest}"));
        let of_url = |error: Error| error.with("path", &shown);
        let service = SERVICES.iter().find(|service| service.scheme == scheme).ok_or_else(|| {
            of_url(Error::usage(format!("stores of type `{scheme}` are not supported")))
                .hint("use a folder, s3://, gcs://, azblob://, file:///folder or memory://name")
        })?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (container, root) = place.split_once('/').unwrap_or((place, ""));
        if container.is_empty() {
            let what = format!("the URL names no {}", service.container);
            return Err(of_url(Error::usage(what)).hint(format!("use {scheme}://{}/prefix", service.container)));
        }
        if container.contains('@') {
            let what = "a URL does not hold a user and a password before its host";
            return Err(of_url(Error::usage(what)).hint("use the parameters of the service, or its own ways"));
        }
        check_place(place).map_err(of_url)?;
        let mut location =
            Self { scheme: service.scheme, shown: shown.clone(), options: Vec::new(), time_out: TIME_OUT };
        location.set(service.container, container);
        location.set("root", root.trim_matches('/'));
        service.read(query).and_then(|given| location.take(&given)).map_err(of_url)?;
        Ok(location)
    }

    /// Takes the parameters of the URL, and finds what is needed besides.
    fn take(&mut self, given: &[(Parameter, String)]) -> Result<()> {
        for ((name, key, form), value) in given {
            match (*name, *key) {
                ("timeout", _) => self.time_out = seconds(value).unwrap_or(TIME_OUT),
                (_, "") => {}
                (_, key) if *form == Form::Switch => self.set(key, if switch(value) { "true" } else { "false" }),
                (_, key) => self.set(key, value),
            }
        }
        let value = |name: &str| given.iter().find(|((known, ..), _)| *known == name).map(|(_, value)| value.as_str());
        for (one, other) in
            [("access_key", "secret_key"), ("secret_key", "access_key"), ("session_token", "access_key")]
        {
            if value(one).is_some() && value(other).is_none() {
                return Err(Error::usage(format!("`{one}` needs `{other}`")));
            }
        }
        match self.scheme {
            "s3" => self.complete_s3(value),
            "azblob" if value("endpoint").is_none() => {
                let account = value("account_name").ok_or_else(|| {
                    Error::usage("the URL says neither `account_name` nor `endpoint`").hint("add ?account_name=… to it")
                })?;
                self.set("endpoint", &format!("https://{account}.blob.core.windows.net"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Finds what S3 needs to know and the URL need not say: the region, and where in a URL a bucket is named.
    fn complete_s3<'a>(&mut self, value: impl Fn(&str) -> Option<&'a str>) -> Result<()> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = value("endpoint").map(str::to_owned);
        // OpenDAL looks for these too.
        let endpoint =
            endpoint.or_else(|| ["AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_S3_ENDPOINT"].into_iter().find_map(variable));
        let amazon = endpoint.as_deref().is_none_or(|endpoint| endpoint.contains(".amazonaws.com"));
        if value("region").is_none() {
            let named = endpoint.as_deref().and_then(|endpoint| {
                endpoint.split_once("://s3.")?.1.split_once(".amazonaws.com").map(|(region, _)| region.to_owned())
            });
            let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")).or(named);
            // Other services take any, and sign with it; this one they all know.
            let region = region.or_else(|| (!amazon).then(|| "us-east-1".to_owned())).ok_or_else(|| {
                Error::usage("the region of the bucket is not known")
                    .hint("add ?region=… to the URL, or set AWS_REGION")
            })?;
            self.set("region", &region);
        }
        // Amazon's newer buckets are found by host name; a certificate fits no name with a dot, and other services
        // seldom have a name for each bucket.
        let has_dot = self.options.iter().any(|(key, bucket)| key == "bucket" && bucket.contains('.'));
        let path_style = value("path_style").map_or(!amazon || has_dot, switch);
        self.set("enable_virtual_host_style", if path_style { "false" } else { "true" });
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) {
        self.options.push((key.to_owned(), value.to_owned()));
    }
}

impl Service {
    /// Reads the parameters of a URL.
    fn read(&self, query: &str) -> Result<Vec<(Parameter, String)>> {
        let mut given: Vec<(Parameter, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(parameter) = self.parameters.iter().find(|(known, ..)| *known == name) else {
                let distance = |known: &&Parameter| strsim::damerau_levenshtein(known.0, name);
                let nearest = self.parameters.iter().min_by_key(distance).map_or("", |(nearest, ..)| nearest);
                return Err(Error::usage(format!("`{}` has no parameter `{name}`", self.scheme))
                    .hint(format!("did you mean `{nearest}`? docs/stores.md lists them")));
            };
            if given.iter().any(|((known, ..), _)| *known == name) {
                return Err(Error::usage(format!("the parameter `{name}` is given twice")));
            }
            let value = decoded(value).ok_or_else(|| Error::usage(format!("`{name}` is no percent-encoded text")))?;
            let wanted = match parameter.2 {
                Form::Text | Form::Secret if value.is_empty() => Some("a value"),
                Form::Switch if !matches!(value.as_str(), "true" | "false") => Some("true or false"),
                Form::HttpUrl if !value.starts_with("http://") && !value.starts_with("https://") => {
                    Some("a URL that begins with https:// or http://")
                }
                // It would be shown, and is not what signs a request.
                Form::HttpUrl if value.contains('@') => Some("a URL without a user and a password"),
                Form::Seconds if seconds(&value).is_none() => Some("a number of seconds, as 30s"),
                _ => None,
            };
            if let Some(wanted) = wanted {
                return Err(Error::usage(format!("the parameter `{name}` must be {wanted}")));
            }
            given.push((*parameter, value));
        }
        Ok(given)
    }
}

/// Refuses a folder that is meant to be a URL, `s3:/bucket`: what it would fill is this machine's disk.
pub(super) fn check_folder(path: &str) -> Result<()> {
    let known = SERVICES.iter().map(|service| service.scheme).chain(["file", "memory"]);
    match path.split_once(':').and_then(|(scheme, _)| known.into_iter().find(|known| *known == scheme)) {
        Some(scheme) => Err(Error::usage(format!("the path begins with `{scheme}:`, but not with `{scheme}://`"))
            .hint(format!("write {scheme}://…, or ./{scheme}:… for a folder of that name"))),
        None => Ok(()),
    }
}

/// Refuses a bucket and prefix that nobody means, or that services and their tools take for different ones.
fn check_place(place: &str) -> Result<()> {
    let parameter = place.split_once('&').is_some_and(|(_, after)| after.contains('='));
    let (what, hint) = if parameter {
        ("a parameter stands in the bucket or prefix", "put a `?` before the first parameter, and `&` between them")
    } else if place.contains(|c: char| c.is_whitespace() || c.is_control()) {
        ("there is white space in the bucket or prefix", "take it out")
    } else if place.contains('#') {
        ("there is a `#` in the bucket or prefix", "take it out; a URL of a store has no fragment")
    } else if place.split('/').any(|part| matches!(part, "." | "..")) {
        ("the bucket or prefix has a part `.` or `..`", "write the prefix out; a store has no parent folders")
    } else {
        return Ok(());
    };
    Err(Error::usage(what).hint(hint))
}

/// Returns a URL as it may be shown: without its user and its parameters, where credentials may stand.
pub(super) fn without_secrets(path: &str) -> String {
    let Some((scheme, rest)) = path.split_once("://") else { return path.to_owned() };
    let place = rest.split_once('?').map_or(rest, |(place, _)| place);
    // Where the `?` was forgotten.
    let place = place.split_once('&').filter(|(_, after)| after.contains('=')).map_or(place, |(place, _)| place);
    let place = place.split_once('@').map_or(place, |(_, place)| place);
    format!("{scheme}://{place}")
}

fn switch(value: &str) -> bool {
    value == "true"
}

fn seconds(value: &str) -> Option<Duration> {
    let seconds: u64 = value.strip_suffix('s')?.parse().ok()?;
    (1..=3600).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// Decodes `%2F` and the like.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(url: &str, key: &str) -> Option<String> {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let location = Location::parse(scheme, rest).expect("read");
        location.options.into_iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    fn refused(url: &str) -> String {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let error = Location::parse(scheme, rest).err().unwrap_or_else(|| panic!("{url} is taken"));
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn a_url_says_service_bucket_prefix_and_parameters() {
        let url = "s3://bucket/a/b/?region=eu-west-1&access_key=id&secret_key=a%2Fb+c%3D&timeout=30s";
        let wanted = [("bucket", "bucket"), ("root", "a/b"), ("region", "eu-west-1"), ("secret_access_key", "a/b+c=")];
        for (key, value) in wanted {
            assert_eq!(option(url, key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(Location::parse("gcs", "b?timeout=30s").expect("read").time_out, Duration::from_secs(30));
        assert_eq!(option("gcs://b/p", "root").as_deref(), Some("p"));
        let azure = "azblob://holder/p?account_name=me";
        assert_eq!(option(azure, "endpoint").as_deref(), Some("https://me.blob.core.windows.net"));
    }

    #[test]
    fn a_bucket_is_in_the_path_where_host_names_cannot_hold_it() {
        let style = |url| option(url, "enable_virtual_host_style").expect("set");
        assert_eq!(style("s3://b?region=x&endpoint=http://127.0.0.1:9000"), "false");
        assert_eq!(style("s3://b.c?region=x&endpoint=https://s3.eu-west-1.amazonaws.com"), "false");
        assert_eq!(style("s3://b?region=x&endpoint=https://s3.eu-west-1.amazonaws.com"), "true");
        assert_eq!(style("s3://b?region=x&path_style=false&endpoint=http://h"), "true");
    }

    #[test]
    fn what_nobody_knows_is_refused_with_the_nearest_known() {
        assert_eq!(
            refused("s3://b/p?regoin=x&secret_key=hidden"),
            "`s3` has no parameter `regoin` (path s3://b/p); did you mean `region`? docs/stores.md lists them"
        );
        assert!(refused("azblob://b?acount_name=x").contains("did you mean `account_name`"));
        assert!(refused("ftp://host/p").contains("stores of type `ftp` are not supported"));
    }

    #[test]
    fn bad_values_are_refused_without_showing_a_secret() {
        for (url, word) in [
            ("s3://?region=x", "names no bucket"),
            ("s3://b?region=", "`region` must be a value"),
            ("s3://b?path_style=yes", "`path_style` must be true or false"),
            ("s3://b?endpoint=localhost:9000", "`endpoint` must be a URL"),
            ("s3://b?timeout=5", "`timeout` must be a number of seconds"),
            ("s3://b?region=a&region=b", "`region` is given twice"),
            ("s3://b?region=a&secret_key=hidden%zz", "`secret_key` is no percent-encoded text"),
            ("s3://b?region=a&access_key=hidden", "`access_key` needs `secret_key`"),
            ("s3://b?region=a&secret_key=hidden", "`secret_key` needs `access_key`"),
            ("s3://me:hidden@b?region=a", "does not hold a user and a password"),
            ("s3://b?endpoint=http://me:hidden@h", "`endpoint` must be a URL without a user and a password"),
            ("s3://b/p&region=a&secret_key=hidden", "a parameter stands in the bucket or prefix"),
            ("s3://b/a b?region=a", "white space"),
            ("s3://b\n?region=a", "white space"),
            ("s3://b/p#x?region=a", "a `#`"),
            ("s3://b/a/../c?region=a", "a part `.` or `..`"),
            ("azblob://b?account_key=hidden", "neither `account_name` nor `endpoint`"),
        ] {
            let error = refused(url);
            assert!(error.contains(word) && !error.contains("hidden"), "{url}: {error}");
        }
    }

    #[test]
    fn a_folder_that_is_meant_to_be_a_url_is_refused() {
        for path in ["s3:/b/p", "s3:b", "gcs:/b", "azblob:b", "file:/backups", "memory:x"] {
            assert_eq!(check_folder(path).expect_err(path).exit_code(), 2);
        }
        for path in ["./s3:/b", "/backups/s3:x", "s3", "c:/x", ""] {
            check_folder(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    }

    #[test]
    fn the_documentation_names_every_parameter() {
        let page = include_str!("../../docs/stores.md");
        for service in &SERVICES {
            for (name, ..) in service.parameters {
                assert!(page.contains(&format!("`{name}`")), "{}: {name}", service.scheme);
            }
        }
    }

    #[test]
    fn every_secret_is_masked_where_a_configuration_is_shown() {
        let parameters = SERVICES.iter().flat_map(|service| service.parameters);
        for (name, ..) in parameters.filter(|(.., form)| *form == Form::Secret) {
            assert!(crate::config::value::is_secret(name), "{name}");
        }
    }
}
