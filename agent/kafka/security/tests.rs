//! What properties of security are taken for, and what rdkafka is told of them.

use super::*;

fn security(pairs: &[(&str, &str)]) -> Result<Security> {
    Security::new(&map(pairs))
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn what_cannot_be_spoken_is_refused_with_what_can() {
    let sasl = ("security.protocol", "SASL_PLAINTEXT");
    let (user, password) = (("sasl.username", "me"), ("sasl.password", "hush"));
    for (pairs, named) in [
        (&[("security.protocol", "tls")][..], "plaintext, ssl, sasl_plaintext, sasl_ssl"),
        (&[sasl], "SCRAM-SHA-256"),
        (&[sasl, ("sasl.mechanism", "GSSAPI")], "for now it is one of PLAIN"),
        (&[sasl, ("sasl.mechanism", "PLAIN"), password], "`sasl.username` is missing"),
        (&[sasl, ("sasl.mechanisms", "SCRAM-SHA-512"), user], "`sasl.password` is missing"),
        (&[sasl, ("sasl.mechanisms", "OAUTHBEARER")], "sasl.oauthbearer.token.endpoint.url"),
        (&[("security.protocol", "ssl"), ("ssl.keystore.location", "/a.p12")], "openssl pkcs12"),
        (&[("security.protocol", "ssl"), ("ssl.ca.location", "/none/ca.pem")], "`ssl.ca.location`: cannot read /none"),
        (&[("security.protocol", "ssl"), ("ssl.ca.pem", "x")], "no certificate"),
        (&[("sasl.password", "${file:/none/there}")], "`sasl.password`: cannot read file `/none/there`"),
    ] {
        let error = security(pairs).expect_err("wrong");
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        assert!(error.to_string().contains(named) && !error.to_string().contains("hush"), "{error}");
    }
    let plain = security(&[sasl, ("sasl.mechanism", "plain"), user, password]).expect("right");
    assert_eq!(plain.mechanism, Some(Mechanism::Plain));
    assert!(!format!("{plain:?}").contains("hush"));
}

#[tokio::test]
async fn a_password_in_a_file_is_the_one_that_it_holds_now() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "one\n").expect("written");
    let reference = given::reference(file.path().to_str().expect("UTF-8")).expect("a plain name");
    let given = [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "SCRAM-SHA-256"),
        ("sasl.username", "me"),
        ("sasl.password", reference.as_str()),
    ];
    let security = security(&given).expect("right");
    let before = security.stamp();
    std::fs::write(file.path(), "two").expect("written");
    assert_ne!(security.stamp(), before);
    let read = security.credentials().await.expect("a password");
    assert!(matches!(read, Credentials::Password { password, .. } if password == "two"));
    let mut settings = map(&given);
    security.for_librdkafka(&mut settings).expect("what rdkafka can say");
    assert_eq!((&*settings["sasl.password"], &*settings["sasl.mechanisms"]), ("two", "SCRAM-SHA-256"));
    std::fs::remove_file(file.path()).expect("removed");
    assert!(security.credentials().await.expect_err("away").retryable(), "it is perhaps being replaced");
}

#[test]
fn rdkafka_gets_its_tokens_from_us_and_trusts_whom_this_machine_trusts() {
    let given = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.method", "oidc"),
        ("enable.sasl.oauthbearer.unsecure.jwt", "true"),
        ("sasl.oauthbearer.config", "principal=me"),
        ("ssl.ca.location", "probe"),
        ("enable.ssl.certificate.verification", "false"),
    ];
    let security = security(&given).expect("right");
    let mut settings = map(&given);
    security.for_librdkafka(&mut settings).expect("what rdkafka can say");
    let wanted = [
        ("enable.ssl.certificate.verification", "false"),
        ("sasl.mechanisms", "OAUTHBEARER"),
        ("security.protocol", "SASL_SSL"),
        ("ssl.ca.location", "probe"),
    ];
    assert_eq!(settings, map(&wanted));
    assert_eq!(security.token_now().expect("made").subject, "me");
}

#[test]
fn who_was_accepted_may_be_again() {
    let security = security(&[]).expect("plaintext");
    assert!(!security.refused("no".to_owned()).retryable());
    security.accept();
    assert!(security.refused("no".to_owned()).retryable());
}
