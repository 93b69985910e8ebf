//! How pipelines start, against rdkafka's mock brokers and against none.

use std::path::Path;
use std::sync::Arc;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::keeping::{Hopes, Keeping};
use super::*;
use crate::connect::{Connector, Phase, Target};
use crate::kafka::source::Selection;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(topics: &[&str]) -> Cluster {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    for topic in topics {
        cluster.create_topic(topic, 1, 1).expect("a topic");
    }
    cluster
}

/// Returns the address of a port that nobody listens on.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

fn pipeline(servers: &str, topic: &str, path: &Path) -> config::Pipeline {
    let text = format!(
        "[[pipeline]]\nname = \"p\"\n\
         [pipeline.source]\ntype = \"kafka\"\ntopics = [\"{topic}\"]\nkafka = {{ \"bootstrap.servers\" = \"{servers}\" }}\n\
         [pipeline.sink]\ntype = \"archive\"\nbackup_id = \"b\"\npath = \"{}\"\n",
        path.display()
    );
    Config::parse("test.toml", &text, &|_| None).expect("valid").pipelines.remove(0)
}

async fn refused(pipeline: &config::Pipeline, mode: Mode) -> Error {
    start(pipeline, mode, &Budget::new(1 << 20)).await.err().expect("it cannot start")
}

#[tokio::test]
async fn a_topic_that_does_not_exist_is_named_and_nothing_is_made() {
    let (cluster, folder) = (cluster(&["orders"]), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("archive");
    let pipeline = pipeline(&cluster.bootstrap_servers(), "order", &path);
    for mode in [Mode::Agent, Mode::Once] {
        let error = refused(&pipeline, mode).await;
        assert_eq!(error.kind(), Kind::Usage);
        assert_eq!(error.to_string(), "topic \"order\" does not exist on the cluster; did you mean \"orders\"?");
        assert!(!path.exists(), "{mode:?}");
    }
}

#[tokio::test]
async fn a_pattern_that_matches_nothing_is_waited_for_by_an_agent_only() {
    let (cluster, folder) = (cluster(&["orders", "__mine"]), tempfile::tempdir().expect("a folder"));
    let mut pipeline = pipeline(&cluster.bootstrap_servers(), "orders", &folder.path().join("archive"));
    for pattern in ["order", "__.*"] {
        pipeline.source.topics = Selection::new(vec!["orders".into()], Some(pattern), &[]).expect("a pattern");
        let error = refused(&pipeline, Mode::Once).await;
        assert_eq!(error.kind(), Kind::Usage);
        let says = format!("no topic of the cluster matches the pattern of orders, /{pattern}/; ");
        assert!(error.to_string().starts_with(&says), "{error}");
    }
    assert!(!folder.path().join("archive").exists());
    drop(start(&pipeline, Mode::Agent, &Budget::new(1 << 20)).await.map_err(|error| panic!("{error}")));
}

#[tokio::test]
async fn a_topic_that_the_archive_knows_is_waited_for_by_an_agent_only() {
    let (cluster, folder) = (cluster(&["orders"]), tempfile::tempdir().expect("a folder"));
    let servers = cluster.bootstrap_servers();
    let orders = pipeline(&servers, "orders", folder.path());
    drop(start(&orders, Mode::Agent, &Budget::new(1 << 20)).await.map_err(|error| panic!("{error}")));
    std::fs::create_dir_all(folder.path().join("b/topics/gone/_")).expect("a folder");
    let gone = pipeline(&servers, "gone", folder.path());
    assert!(start(&gone, Mode::Agent, &Budget::new(1 << 20)).await.is_ok());
    assert_eq!(refused(&gone, Mode::Once).await.kind(), Kind::Usage);
}

#[tokio::test]
async fn an_unreachable_cluster_leaves_no_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("archive");
    let error = refused(&pipeline(&nobody(), "orders", &path), Mode::Agent).await;
    assert_eq!(error.exit_code(), 1, "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_folder_that_cannot_be_is_the_users_to_change_even_without_a_cluster() {
    // Below a file there is no folder, not even for root.
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error = refused(&pipeline(&nobody(), "orders", &file.path().join("archive")), Mode::Once).await;
    assert_eq!(error.kind(), Kind::Usage, "{error}");
}

#[tokio::test]
async fn a_plugin_that_cannot_be_a_stage_is_named_with_file_key_and_stage_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = |stage: &str| {
        format!(
            "[[pipeline]]\nname = \"p\"\n\
             [pipeline.source]\ntype = \"kafka\"\ntopics = [\"t\"]\nkafka = {{ \"bootstrap.servers\" = \"nobody:1\" }}\n\
             [[pipeline.stage]]\nplugin = \"header-injector\"\n\
             [[pipeline.stage]]\n{stage}\n\
             [pipeline.sink]\ntype = \"archive\"\nbackup_id = \"b\"\npath = \"{}\"\n",
            folder.path().join("archive").display()
        )
    };
    let validated = async |stage: &str| {
        let config = Config::parse("a.toml", &text(stage), &|_| None).expect("its own file is sound");
        validate_stages(&config).await
    };
    for (stage, key, says) in [
        ("plugin = \"/nowhere/x.wasm\"", "plugin", "there is no plugin /nowhere/x.wasm (stage 2)"),
        ("plugin = \"Cargo.toml/\"", "plugin", "cannot read plugin Cargo.toml/ (stage 2)"),
        (
            "plugin = \"header-injectr\"",
            "plugin",
            "there is no plugin `header-injectr` (stage 2); it is `header-injector`",
        ),
        (
            "plugin = \"pitr-filter\"\nsettings = { fron = 5 }",
            "settings",
            "plugin `pitr-filter` (stage 2 of pipeline `p`, pitr-filter.wasm) cannot be configured: ",
        ),
        (
            "plugin = \"restore-fanout\"\nsettings = { by = \"topic\", to.a = \"b\" }",
            "plugin",
            "stage 2 of pipeline `p`: plugin `restore-fanout` sends records elsewhere",
        ),
    ] {
        let error = validated(stage).await.expect_err(stage);
        let wanted = format!("a.toml: pipeline[0].stage[1].{key}: {says}");
        assert!(error.kind() == Kind::Usage && error.to_string().starts_with(&wanted), "{error}");
    }
    validated("plugin = \"pitr-filter\"\nsettings = { until = 5 }").await.expect("sound");
}

/// Runs `pipeline` as an agent does, and returns its health with what asks it to stop.
fn agent(pipeline: config::Pipeline) -> (Health, channel::Sender<bool>, tokio::task::JoinHandle<Result<()>>) {
    agent_of(connector(pipeline, Target::Started), Hopes::new(1))
}

fn connector(pipeline: config::Pipeline, target: Target) -> Arc<Connector> {
    Arc::new(Connector::of_file(pipeline, serde_json::Map::new(), target))
}

/// As [`agent`], with what tells the pipeline what to do.
fn agent_of(
    connector: Arc<Connector>,
    hopes: Hopes,
) -> (Health, channel::Sender<bool>, tokio::task::JoinHandle<Result<()>>) {
    let (stop, stopped) = channel::channel(false);
    let health = Health::new();
    let keeping = Keeping {
        pipeline: connector.capture().expect("it captures").clone(),
        connector,
        restart_backoff_max: Duration::from_millis(50),
        health: health.of("pipeline p"),
        registry: Registry::default(),
        reached: Reached::default(),
        hopes: Some(hopes),
    };
    (health, stop, tokio::spawn(keeping.run(stopped)))
}

#[tokio::test]
async fn what_the_user_must_change_ends_an_agent_at_its_first_attempt() {
    let (cluster, folder) = (cluster(&["orders"]), tempfile::tempdir().expect("a folder"));
    let (_health, _stop, agent) = agent(pipeline(&cluster.bootstrap_servers(), "order", folder.path()));
    let error = agent.await.expect("no panic").expect_err("it cannot start");
    assert_eq!(error.exit_code(), 2);
}

#[tokio::test]
async fn what_the_user_must_change_of_one_of_several_ends_no_agent() {
    let (cluster, folder) = (cluster(&["orders"]), tempfile::tempdir().expect("a folder"));
    let (poisoned, hopes) =
        (connector(pipeline(&cluster.bootstrap_servers(), "order", folder.path()), Target::Started), Hopes::new(2));
    let (_health, stop, agent) = agent_of(poisoned.clone(), hopes.clone());
    does(&poisoned, |phase| matches!(phase, Phase::Failed(why) if why.contains("does not exist"))).await;
    assert!(!agent.is_finished(), "another may capture");
    stop.send_replace(true);
    agent.await.expect("no panic").expect("told to stop");
    let (_health, _stop, agent) = agent_of(poisoned, hopes);
    let error = agent.await.expect("no panic").expect_err("that was the last one");
    assert_eq!(error.exit_code(), 2);
}

#[tokio::test]
async fn what_the_user_must_change_is_waited_for_after_a_failed_attempt() {
    let (cluster, folder) = (cluster(&["orders"]), tempfile::tempdir().expect("a folder"));
    // The first attempt fails for a reason that passes: no broker answers. Then it is the topic.
    let port = nobody();
    let (health, stop, agent) = agent(pipeline(&port, "order", folder.path()));
    let said = async |words: &str| {
        while !health.reasons().iter().any(|reason| reason.contains(words)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let deadline = Duration::from_secs(30);
    tokio::time::timeout(deadline, said("no broker answers")).await.expect("it says why");
    let listener = tokio::net::TcpListener::bind(&port).await.expect("still free");
    let broker = cluster.bootstrap_servers();
    let forward = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut broker = tokio::net::TcpStream::connect(&broker).await.expect("the broker");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut broker).await });
        }
    });
    tokio::time::timeout(deadline, said("\"order\" does not exist")).await.expect("it says why");
    assert!(!agent.is_finished());
    stop.send_replace(true);
    agent.await.expect("no panic").expect("told to stop");
    forward.abort();
}

/// Waits until the pipeline does what it shall.
async fn does(connector: &Connector, wanted: impl Fn(&Phase) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !wanted(&connector.phase()) {
            // What lasts for a moment is seen, too.
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("it is still {:?}", connector.phase()));
}

#[tokio::test]
async fn a_pipeline_rests_while_it_is_told_to_and_begins_anew_when_it_is_told_to() {
    let (cluster, folder) = (cluster(&["orders"]), tempfile::tempdir().expect("a folder"));
    let pipeline = pipeline(&cluster.bootstrap_servers(), "orders", &folder.path().join("archive"));
    let connector = connector(pipeline, Target::Paused);
    let (health, stop, agent) = agent_of(connector.clone(), Hopes::new(1));
    does(&connector, |phase| *phase == Phase::Paused).await;
    assert_eq!(health.reasons(), [""; 0], "it does what it was told to");
    assert!(!folder.path().join("archive").exists());
    connector.tell(Target::Started);
    does(&connector, |phase| *phase == Phase::Running).await;
    connector.restart();
    does(&connector, |phase| *phase == Phase::Restarting).await;
    does(&connector, |phase| *phase == Phase::Running).await;
    connector.tell(Target::Stopped);
    does(&connector, |phase| *phase == Phase::Stopped).await;
    stop.send_replace(true);
    agent.await.expect("no panic").expect("told to stop");
}

#[tokio::test]
async fn what_has_rested_ends_no_agent_whatever_is_wrong_with_it() {
    let (cluster, folder) = (cluster(&["orders"]), tempfile::tempdir().expect("a folder"));
    let connector = connector(pipeline(&cluster.bootstrap_servers(), "order", folder.path()), Target::Stopped);
    let (_health, stop, agent) = agent_of(connector.clone(), Hopes::new(1));
    does(&connector, |phase| *phase == Phase::Stopped).await;
    connector.tell(Target::Started);
    does(&connector, |phase| matches!(phase, Phase::Failed(why) if why.contains("does not exist"))).await;
    connector.tell(Target::Paused);
    does(&connector, |phase| *phase == Phase::Paused).await;
    assert!(!agent.is_finished());
    stop.send_replace(true);
    agent.await.expect("no panic").expect("told to stop");
}
