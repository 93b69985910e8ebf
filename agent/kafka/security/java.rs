//! The names that Kafka's Java clients have for properties of security, read as librdkafka's: files with them lie about
//! wherever Kafka's own tools are used (`--command-config`). Pure, but that a store is looked at for PEM.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::kafka::given;

/// What Java's names mean that need no more than another name.
const RENAMED: [(&str, &str); 3] = [
    ("ssl.truststore.certificates", "ssl.ca.pem"),
    ("ssl.keystore.certificate.chain", "ssl.certificate.pem"),
    ("ssl.keystore.key", "ssl.key.pem"),
];

/// What means nothing here, as PEM has no types and stores of it no passwords, or TLS 1.2 and 1.3 are spoken anyway.
const NOTHING: [&str; 7] = [
    "ssl.truststore.type",
    "ssl.keystore.type",
    "ssl.truststore.password",
    "ssl.protocol",
    "ssl.enabled.protocols",
    "sasl.login.class",
    "sasl.login.callback.handler.class",
];

/// Reads Java's names in `map` as librdkafka's; what librdkafka names itself stands.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for a store that is not PEM, or a login that is not known, with what to write
/// instead.
pub(crate) fn from_java(mut map: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    if let Some(login) = map.remove("sasl.jaas.config") {
        for (name, text) in of_login(&login)? {
            map.entry(name.to_owned()).or_insert(text);
        }
    }
    if let Some(store) = map.remove("ssl.truststore.location") {
        check_store("ssl.truststore.location", &store)?;
        map.entry("ssl.ca.location".to_owned()).or_insert(store);
    }
    if let Some(store) = map.get("ssl.keystore.location").cloned()
        && is_pem(&store)
    {
        map.remove("ssl.keystore.location");
        let password = map.remove("ssl.keystore.password");
        for name in ["ssl.certificate.location", "ssl.key.location"] {
            map.entry(name.to_owned()).or_insert(store.clone());
        }
        if let Some(password) = password {
            map.entry("ssl.key.password".to_owned()).or_insert(password);
        }
    }
    for (java, ours) in RENAMED {
        if let Some(text) = map.remove(java) {
            map.entry(ours.to_owned()).or_insert(text);
        }
    }
    for name in NOTHING {
        map.remove(name);
    }
    if let Some(algorithm) = map.get_mut("ssl.endpoint.identification.algorithm")
        && algorithm.trim().is_empty()
    {
        *algorithm = "none".to_owned();
    }
    if map.contains_key("sasl.oauthbearer.token.endpoint.url") {
        map.entry("sasl.oauthbearer.method".to_owned()).or_insert("oidc".to_owned());
    }
    Ok(map)
}

fn is_pem(store: &str) -> bool {
    given::read_bytes(store).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains("-----BEGIN "))
}

fn check_store(name: &str, store: &str) -> Result<()> {
    if is_pem(store) || !std::path::Path::new(store).exists() {
        return Ok(());
    }
    Err(Error::usage(format!("`{name}` {store} is not PEM")).hint(format!(
        "write its certificates out (keytool -list -rfc -keystore {store} > ca.pem), and name that in `ssl.ca.location`"
    )))
}

/// Reads `sasl.jaas.config`, as `org.….PlainLoginModule required username="u" password="p";`.
fn of_login(login: &str) -> Result<Vec<(&'static str, String)>> {
    let wrong = |reason: &str| {
        Error::usage(format!("`sasl.jaas.config` cannot be read: {reason}"))
            .hint("write `sasl.username` and `sasl.password` instead")
    };
    let login = login.trim();
    let module = login.split_whitespace().next().unwrap_or_default();
    let module = module.rsplit('.').next().unwrap_or_default();
    let known: &[(&str, &'static str)] = match module {
        "PlainLoginModule" | "ScramLoginModule" => &[("username", "sasl.username"), ("password", "sasl.password")],
        "OAuthBearerLoginModule" => &[
            ("clientId", "sasl.oauthbearer.client.id"),
            ("clientSecret", "sasl.oauthbearer.client.secret"),
            ("scope", "sasl.oauthbearer.scope"),
        ],
        _ => return Err(wrong("only PlainLoginModule, ScramLoginModule and OAuthBearerLoginModule are known")),
    };
    let mut rest = login.split_once(char::is_whitespace).map_or("", |(_, rest)| rest).trim_start();
    rest = rest.strip_prefix("required").ok_or_else(|| wrong("`required` is missing"))?.trim_start();
    let mut found = Vec::new();
    while !rest.is_empty() && rest != ";" {
        let (name, after) = rest.split_once('=').ok_or_else(|| wrong("it is written name=\"value\""))?;
        let (text, after) = quoted(after.trim_start()).ok_or_else(|| wrong("a quote is not closed"))?;
        if let Some((_, ours)) = known.iter().find(|(java, _)| *java == name.trim()) {
            found.push((*ours, text));
        }
        rest = after.trim_start();
    }
    Ok(found)
}

/// Reads a value, in double quotes with backslashes or bare; returns what follows it too.
fn quoted(text: &str) -> Option<(String, &str)> {
    let Some(inside) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_whitespace() || c == ';').unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let (mut value, mut chars) = (String::new(), inside.char_indices());
    while let Some((at, next)) = chars.next() {
        match next {
            '"' => return Some((value, &inside[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Vec<(String, String)>> {
        let map = pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        from_java(map).map(|map| map.into_iter().collect())
    }

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_login_of_java_is_read() {
        let plain =
            r#"org.apache.kafka.common.security.plain.PlainLoginModule required username="a" password="p\"; x=y";"#;
        let wanted = [("sasl.password", r#"p"; x=y"#), ("sasl.username", "a")];
        assert_eq!(read(&[("sasl.jaas.config", plain)]).expect("plain"), pairs(&wanted));
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required\n username=a\n password=b ;";
        let wanted = [("sasl.password", "b"), ("sasl.username", "a")];
        assert_eq!(read(&[("sasl.jaas.config", scram)]).expect("scram"), pairs(&wanted));
        let both = read(&[("sasl.jaas.config", scram), ("sasl.username", "c")]).expect("both");
        assert!(both.contains(&("sasl.username".to_owned(), "c".to_owned())), "librdkafka's name stands");
        for wrong in [
            "com.sun.security.auth.module.Krb5LoginModule required;",
            "x.PlainLoginModule",
            "x.PlainLoginModule required a",
        ] {
            let error = read(&[("sasl.jaas.config", wrong)]).expect_err("wrong").to_string();
            assert!(error.contains("write `sasl.username`"), "{error}");
        }
    }

    #[test]
    fn stores_of_java_are_read_where_they_are_pem() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("UTF-8").to_owned();
        std::fs::write(&path, "\u{fe}\u{ed}").expect("written");
        let error = read(&[("ssl.truststore.location", &path)]).expect_err("JKS").to_string();
        assert!(error.contains("keytool -list -rfc"), "{error}");
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").expect("written");
        let given = [
            ("ssl.truststore.location", path.as_str()),
            ("ssl.truststore.type", "PEM"),
            ("ssl.keystore.location", &path),
            ("ssl.endpoint.identification.algorithm", ""),
        ];
        let wanted = [
            ("ssl.ca.location", path.as_str()),
            ("ssl.certificate.location", &path),
            ("ssl.endpoint.identification.algorithm", "none"),
            ("ssl.key.location", &path),
        ];
        assert_eq!(read(&given).expect("PEM"), pairs(&wanted));
    }
}
