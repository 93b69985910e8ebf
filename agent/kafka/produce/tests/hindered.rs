//! What keeps a process from fencing others off, and what does not.

use super::cluster::CUT;
use super::*;
use crate::error::Result;

async fn asked(cluster: &Cluster, client: &Client, code: Option<i16>) -> Result<Option<String>> {
    cluster.state().coordinates = code;
    hindrance(client, "restore-1", false).await
}

#[tokio::test]
async fn who_may_not_use_the_id_hears_what_to_allow_and_where_there_are_no_transactions_that_is_said() {
    let cluster = Cluster::start(1, 1, 9).await;
    // The calls that it has are told when a connection is opened.
    let why = asked(&cluster, &client(&cluster.servers()), None).await.expect("asked").expect("it has none");
    assert!(why.contains("no transactions") && why.contains("FindCoordinator"), "{why}");
    let client = client(&cluster.servers());
    assert_eq!(asked(&cluster, &client, Some(0)).await.expect("asked"), None);
    let why = asked(&cluster, &client, Some(35)).await.expect("asked").expect("it has none");
    assert!(why.contains("no transactions"), "{why}");
    let why = asked(&cluster, &client, Some(53)).await.expect("asked").expect("it may not be used");
    assert!(
        why.contains("\"restore-1\"") && why.ends_with("allow WRITE and DESCRIBE on it for this principal"),
        "{why}"
    );
}

#[tokio::test]
async fn whatever_else_goes_wrong_is_no_reason_to_go_on_without_a_fence() {
    let cluster = Cluster::start(1, 1, 9).await;
    let asking = client(&cluster.servers());
    // CLUSTER_AUTHORIZATION_FAILED
    let error = asked(&cluster, &asking, Some(31)).await.expect_err("it is refused");
    assert!(!error.retryable() && error.to_string().contains("ClusterAuthorizationFailed"), "{error}");
    // What answers under the address when the connection is lost is of another cluster: that does not pass either.
    assert_eq!(asked(&cluster, &asking, Some(0)).await.expect("asked"), None);
    cluster.state().cluster_id = "other";
    let error = asked(&cluster, &asking, Some(CUT)).await.expect_err("nobody of this cluster answers");
    assert!(!error.retryable() && error.to_string().contains("another cluster"), "{error}");
}
