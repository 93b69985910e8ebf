//! A cluster as a command line names it, for the lines that say what to run next. No secret is in such a line: they say by name
//! which are left out. Pure.

use std::path::Path;

use crate::config::value::is_secret;
use crate::groups::script::quoted;
use crate::kafka::Properties;

/// How a cluster is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    words: String,
    secrets: Option<String>,
}

impl Named {
    /// Names the cluster of these properties.
    pub fn of(properties: &Properties) -> Self {
        let is_servers = |key: &str| matches!(key, "bootstrap.servers" | "metadata.broker.list");
        let others = properties.map().iter().filter(|(key, _)| !is_servers(key));
        let others: Vec<_> = others.map(|(key, value)| (key.clone(), value.clone())).collect();
        Self::new(Some(&properties.bootstrap_servers.join(",")), None, &others)
    }

    /// Names it by its brokers, a file of properties, and properties.
    pub fn new(servers: Option<&str>, file: Option<&Path>, properties: &[(String, String)]) -> Self {
        let (mut words, mut secrets) = (Vec::new(), Vec::new());
        words.extend(servers.map(|servers| format!("--bootstrap-servers {}", quoted(servers))));
        words.extend(file.map(|file| format!("--command-config {}", quoted(&file.display().to_string()))));
        for (key, value) in properties {
            // What is of several lines has no place in one either.
            if is_secret(key) || value.contains(char::is_control) {
                let name = format!("-X {key}=…");
                if !secrets.contains(&name) {
                    secrets.push(name);
                }
            } else {
                words.push(format!("-X {}", quoted(&format!("{key}={value}"))));
            }
        }
        let secrets = secrets.join(" ");
        let secrets = (!secrets.is_empty())
            .then(|| format!("left out there, to be added, or named in a --command-config: {secrets}"));
        Self { words: words.join(" "), secrets }
    }

    /// Returns the flags as a shell reads them, without what is secret.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// Returns, as a line for people, which properties [`words`](Self::words) leaves out; `None` where there are none.
    pub fn secrets(&self) -> Option<&str> {
        self.secrets.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_named_by_its_properties_and_a_secret_by_its_name_alone() {
        let map = [("bootstrap.servers", "a:1,b:2"), ("client.id", "me"), ("sasl.password", "hush")];
        let map = map.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let named = Named::of(&Properties::new(map.into()).expect("sound"));
        assert_eq!(named.words(), "--bootstrap-servers a:1,b:2 -X client.id=me");
        assert!(named.secrets().is_some_and(|line| line.ends_with(": -X sasl.password=…")), "{named:?}");
    }
}
