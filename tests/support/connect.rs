//! Apache Kafka Connect's own worker, standalone, with one connector: its jars come from Maven Central once.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::kafka::{self, NEEDED, free_port, java_of};
use super::reaper::{self, Process};
use super::wait_within;

const VERSION: &str = "4.2.1";

/// The release of the connectors to files: there is none of the worker's own.
const FILES: &str = "4.2.0";

/// The worker. Fields drop in order: the process before its files.
pub(crate) struct Connect {
    _process: Process,
    address: String,
    folder: TempDir,
}

impl Connect {
    /// Starts a worker with the connector `name`, which writes `topic` to a file.
    pub(crate) fn start(brokers: &str, name: &str, topic: &str) -> Self {
        // Between finding a port and listening on it another process may take it.
        Self::try_start(brokers, name, topic)
            .or_else(|_| Self::try_start(brokers, name, topic))
            .unwrap_or_else(|log| panic!("Kafka Connect did not start:\n{log}"))
    }

    fn try_start(brokers: &str, name: &str, topic: &str) -> Result<Self, String> {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable");
        reaper::remove_at_end(folder.path());
        let port = free_port();
        let (worker, connector) = (folder.path().join("worker.properties"), folder.path().join("connector.json"));
        fs::write(&worker, properties(brokers, port, folder.path())).expect("the folder is writable");
        let config = json!({ "name": name, "config": config(folder.path(), topic) });
        fs::write(&connector, config.to_string()).expect("the folder is writable");
        let log = folder.path().join("connect.log");
        let out = File::create(&log).expect("the folder is writable");
        let [worker, connector] = [&worker, &connector].map(|file| file.to_str().expect("UTF-8"));
        let class = "org.apache.kafka.connect.cli.ConnectStandalone";
        let mut java = java_of(&jars(), &["-Xmx256m"], class, &[worker, connector]);
        java.stdin(Stdio::null()).stdout(out.try_clone().expect("a file")).stderr(out);
        let mut process = Process::start(&mut java).expect(NEEDED);
        wait_within(Duration::from_secs(120), "Kafka Connect listens", || {
            if let Ok(Some(_)) = process.child().try_wait() {
                return Some(Err(fs::read_to_string(&log).unwrap_or_default()));
            }
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(Ok(()))
        })?;
        Ok(Self { _process: process, address: format!("127.0.0.1:{port}"), folder })
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the configuration of a connector that writes `topic` to a file.
    pub(crate) fn config(&self, topic: &str) -> Value {
        config(self.folder.path(), topic)
    }
}

fn config(folder: &Path, topic: &str) -> Value {
    let file = folder.join("records");
    json!({ "connector.class": "FileStreamSink", "tasks.max": "1", "topics": topic, "file": file })
}

fn properties(brokers: &str, port: u16, folder: &Path) -> String {
    format!(
        "bootstrap.servers={brokers}
listeners=HTTP://127.0.0.1:{port}
key.converter=org.apache.kafka.connect.converters.ByteArrayConverter
value.converter=org.apache.kafka.connect.converters.ByteArrayConverter
offset.storage.file.filename={}
offset.flush.interval.ms=1000
",
        folder.join("offsets").display()
    )
}

/// Returns the folder of the worker's jars; fetches them when they are not there.
fn jars() -> std::path::PathBuf {
    let ours = ["connect-runtime", "connect-json", "connect-transforms"].map(|artifact| (artifact, VERSION));
    let of_kafka = ours.into_iter().chain([("connect-file", FILES)]);
    let mut all: Vec<_> = of_kafka.map(|(artifact, version)| ("org.apache.kafka", artifact, version)).collect();
    // Its loggers are those of log4j.
    all.push(("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3"));
    kafka::jars_of(&format!("connect-{VERSION}"), &all)
}
