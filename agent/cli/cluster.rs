//! The cluster that a verb talks to, as Kafka's own tools are told it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::kafka::Properties;

/// Which cluster, and how to reach it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClusterArgs {
    /// The brokers to begin with
    #[arg(long, short = 'b', alias = "bootstrap-server", value_name = "HOST:PORT,…")]
    pub bootstrap_servers: Option<String>,
    /// A property of the Kafka client, by librdkafka's name; may be given again
    #[arg(short = 'X', value_name = "KEY=VALUE", value_parser = property)]
    pub property: Vec<(String, String)>,
    /// A file of such properties, one a line
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
            for (n, line) in text.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with(['#', '!']) {
                    continue;
                }
                let wrong = |reason| Error::usage(format!("{}:{}: {reason}", file.display(), n + 1));
                map.extend([property(line).map_err(wrong)?]);
            }
        }
        map.extend(self.property.iter().cloned());
        map.extend(self.bootstrap_servers.iter().map(|servers| ("bootstrap.servers".to_owned(), servers.clone())));
        if !map.contains_key("bootstrap.servers") {
            return Err(Error::usage("no cluster is named").hint("add --bootstrap-servers host:port"));
        }
        Properties::new(map)
    }
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
