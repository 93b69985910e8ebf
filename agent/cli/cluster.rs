//! The cluster that a verb talks to, as Kafka's own tools are told it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::kafka::Properties;
use crate::kafka::security::from_java;
use crate::recovery::named::Named;

/// Which cluster, and how to reach it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClusterArgs {
    /// The brokers to begin with
    #[arg(long, short = 'b', alias = "bootstrap-server", value_name = "HOST:PORT,…")]
    pub bootstrap_servers: Option<String>,
    /// A property of the Kafka client, by librdkafka's name; may be given again
    #[arg(short = 'X', value_name = "KEY=VALUE", value_parser = property)]
    pub property: Vec<(String, String)>,
    /// A file of such properties, one a line; Kafka's own names for security are read too
    #[arg(long, value_name = "FILE")]
    pub command_config: Option<PathBuf>,
}

impl ClusterArgs {
    /// As [`properties`](Self::properties), where a cluster is to be asked; else `None`.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) also for a cluster that is named where none is to be asked.
    pub fn properties_if(&self, is_asked: bool) -> Result<Option<Properties>> {
        let is_named = self.bootstrap_servers.is_some() || !self.property.is_empty() || self.command_config.is_some();
        match is_asked {
            true => self.properties().map(Some),
            false if is_named => Err(Error::usage("a cluster is named, and nothing asked of it")
                .hint("add --against-cluster or --against-restore")),
            false => Ok(None),
        }
    }

    /// Returns what was given, checked: the file first, over it `-X`, over that `--bootstrap-servers`.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a file that cannot be read, and as [`Properties::new`].
    pub fn properties(&self) -> Result<Properties> {
        let mut map = BTreeMap::new();
        if let Some(file) = &self.command_config {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Error::usage(format!("cannot read {}", file.display())).source(error))?;
            for (number, line) in lines(&text) {
                let wrong = |reason| Error::usage(format!("{}:{number}: {reason}", file.display()));
                map.extend([property(&line).map_err(wrong)?]);
            }
            map = from_java(map)?;
        }
        map.extend(self.property.iter().cloned());
        map.extend(self.bootstrap_servers.iter().map(|servers| ("bootstrap.servers".to_owned(), servers.clone())));
        if !map.contains_key("bootstrap.servers") {
            return Err(Error::usage("no cluster is named").hint("add --bootstrap-servers host:port"));
        }
        Properties::new(map)
    }
}

impl ClusterArgs {
    /// Returns the flags as a shell reads them, for a command to come.
    pub fn named(&self) -> Named {
        Named::new(self.bootstrap_servers.as_deref(), self.command_config.as_deref(), &self.property)
    }
}

/// Returns the lines of a file of properties with their numbers, without comments; a line that ends in a backslash goes on
/// in the next, as in Java's files.
fn lines(text: &str) -> Vec<(usize, String)> {
    let (mut lines, mut goes_on) = (Vec::<(usize, String)>::new(), false);
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if !goes_on && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        let (line, more) = if backslashes % 2 == 1 { (&line[..line.len() - 1], true) } else { (line, false) };
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, last)) => last.push_str(line),
            None => lines.push((n + 1, line.to_owned())),
        }
        goes_on = more;
    }
    lines
}

/// Reads `key=value`.
fn property(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is written key=value")?;
    match key.trim() {
        "" => Err("it is written key=value".to_owned()),
        key => Ok((key.to_owned(), value.trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_said_more_closely_holds() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"# of the cluster\nclient.id = file\nbootstrap.servers=a:1\n\nfetch.wait.max.ms=7\n")
            .expect("written");
        let args = ClusterArgs {
            bootstrap_servers: Some("b:2".into()),
            property: vec![("client.id".into(), "flag".into())],
            command_config: Some(file.path().to_owned()),
        };
        let properties = args.properties().expect("sound");
        assert_eq!((properties.client_id.as_str(), properties.fetch_wait_ms), ("flag", 7));
        assert_eq!(properties.bootstrap_servers, ["b:2"]);
    }

    #[test]
    fn a_file_for_kafkas_own_tools_is_read() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let text = "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n\
                    sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\\n    \
                    username=\"me\" \\\n    password=\"hush\";\n";
        file.write_all(text.as_bytes()).expect("written");
        let args = ClusterArgs {
            bootstrap_servers: Some("b:2".into()),
            property: vec![("sasl.username".into(), "you".into())],
            command_config: Some(file.path().to_owned()),
        };
        let properties = args.properties().expect("sound");
        assert_eq!((&*properties.map()["sasl.username"], &*properties.map()["sasl.password"]), ("you", "hush"));
    }

    #[test]
    fn a_cluster_is_named_as_it_was_and_what_is_secret_is_left_out_by_name() {
        let property = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let properties =
            [("sasl.username", "me too"), ("sasl.password", "hush"), ("ssl.certificate.pem", "-\n-")].map(property);
        let cluster = ClusterArgs {
            bootstrap_servers: Some("k:9092".to_owned()),
            property: properties.to_vec(),
            command_config: Some("/my file".into()),
        };
        let wanted = "--bootstrap-servers k:9092 --command-config '/my file' -X 'sasl.username=me too'";
        assert_eq!(cluster.named().words(), wanted);
        let named = cluster.named();
        let secrets = named.secrets().expect("there are some");
        assert!(secrets.ends_with(": -X sasl.password=… -X ssl.certificate.pem=…"), "{secrets}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_said_with_its_place() {
        let none = ClusterArgs::default().properties().expect_err("no cluster");
        assert!(none.to_string().contains("--bootstrap-servers"), "{none}");
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"client.id=x\nnonsense\n").expect("written");
        let args = ClusterArgs { command_config: Some(file.path().to_owned()), ..ClusterArgs::default() };
        let error = args.properties().expect_err("wrong");
        assert!(error.exit_code() == 2 && error.to_string().contains(":2: it is written key=value"), "{error}");
    }
}
