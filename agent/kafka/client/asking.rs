//! Who is asked, over which connection, and for how long: one broker, or whichever of all answers first.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages as m;
use kafka_protocol::protocol::Request;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::race::Race;
use super::{Client, METADATA, too_old};
use crate::error::{Error, Result};
use crate::kafka::identity::{self, Known};
use crate::kafka::wire::{Connection, Throttled};
use crate::record::TopicId;

/// How long a broker may be silent before the next one is asked as well. A half-open connection answers nothing for ever;
/// with half of this a broker in a long pause of its garbage collector would double the questions, with twice as much
/// two dead brokers of five would hold up a look at the cluster for eight seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

impl Client {
    /// Opens a connection to the broker at `address`, which must be of our cluster; the first that answers says which
    /// that is.
    ///
    /// # Errors
    /// As [`Connection::open`]; [`Kind::Failed`](crate::error::Kind::Failed), with both ids, for a broker of another
    /// cluster.
    pub async fn connect(&self, address: &str) -> Result<Connection> {
        let mut connection = Connection::open(address, self.properties()).await?;
        let version = connection.version::<m::MetadataRequest>(METADATA).ok_or_else(too_old)?;
        let nothing = m::MetadataRequest::default().with_topics(Some(Vec::new())).with_allow_auto_topic_creation(false);
        let met = connection.call(&nothing, version).await?.cluster_id;
        let Some(met) = met.map(|id| id.to_string()) else { return Ok(connection) };
        let ours = self.known().cluster_id.get_or_insert_with(|| met.clone()).clone();
        if ours == met {
            return Ok(connection);
        }
        Err(Error::failed(format!("broker {address} now answers for another cluster: it was {ours}, it is {met}"))
            .hint("nothing is read from it; correct `bootstrap.servers`, or use another backup for the other cluster"))
    }

    /// Asks one broker after the other, the next one when one has failed or been silent for a while, and takes the first
    /// answer; `None` when the one that answered lacks the call.
    pub(in crate::kafka) async fn ask_any<R>(
        &self,
        ours: RangeInclusive<i16>,
        request: &R,
    ) -> Result<Option<R::Response>>
    where
        R: Request,
        R::Response: Throttled,
    {
        let addresses = self.addresses();
        let mut left = addresses.iter();
        let mut race = Race::default();
        let mut last: Option<Error> = None;
        loop {
            match left.next() {
                Some(address) => {
                    let ask = self.ask(address, ours.clone(), request);
                    race.enter(async move { (address, ask.await) });
                }
                None if race.is_empty() => break,
                None => {}
            }
            let patience = if left.len() > 0 { PATIENCE } else { Duration::MAX };
            match timeout(patience, race.next()).await {
                Ok((address, Ok(answer))) => {
                    self.known().doubtful.remove(address);
                    return Ok(answer);
                }
                Ok((address, Err(error))) => {
                    self.known().doubtful.insert(address.clone());
                    // That a broker is of another cluster says more than that a further one is away.
                    last = last.filter(|last| !last.retryable()).or(Some(error));
                }
                // The newest one is silent; those before it are already known to be.
                Err(_) => self.doubt(addresses.get(addresses.len() - left.len() - 1)),
            }
        }
        Err(match last {
            Some(last) if !last.retryable() => last,
            Some(last) => Error::transient(format!("no broker answers; tried {}", addresses.join(", "))).source(last),
            None => Error::transient("no broker is known"),
        })
    }

    /// Asks the broker at `address`; `None` when it has no version of the call that we know.
    pub(in crate::kafka) async fn ask<R>(
        &self,
        address: &str,
        ours: RangeInclusive<i16>,
        request: &R,
    ) -> Result<Option<R::Response>>
    where
        R: Request,
        R::Response: Throttled,
    {
        let slot = self.slot(address);
        let mut slot = slot.lock().await;
        self.ask_over(&mut slot, address, ours, request).await
    }

    /// Asks the broker at `address` about topics that it knows by their names, and returns those of them besides that
    /// are not there any more: what it says under their names is not about them.
    pub(super) async fn ask_about<R>(
        &self,
        address: &str,
        ours: RangeInclusive<i16>,
        request: &R,
        topics: Known,
    ) -> Result<Option<(R::Response, HashSet<TopicId>)>>
    where
        R: Request,
        R::Response: Throttled,
    {
        let slot = self.slot(address);
        let mut slot = slot.lock().await;
        let Some(answer) = self.ask_over(&mut slot, address, ours, request).await? else { return Ok(None) };
        let Some(connection) = slot.as_mut().filter(|_| !topics.is_empty()) else {
            return Ok(Some((answer, HashSet::new())));
        };
        let Some(version) = connection.version::<m::MetadataRequest>(identity::VERSIONS) else {
            return Err(identity::cannot_tell(connection.broker()));
        };
        match connection.call(&topics.question(), version).await {
            Ok(told) => Ok(Some((answer, topics.gone(&told).into_iter().collect()))),
            Err(error) => {
                *slot = None;
                Err(error)
            }
        }
    }

    /// Returns the place of the kept connection to the broker at `address`.
    fn slot(&self, address: &str) -> Arc<Mutex<Option<Connection>>> {
        self.connections().entry(address.to_owned()).or_default().clone()
    }

    /// Asks over the kept connection, or a new one, which is kept then.
    async fn ask_over<R>(
        &self,
        slot: &mut Option<Connection>,
        address: &str,
        ours: RangeInclusive<i16>,
        request: &R,
    ) -> Result<Option<R::Response>>
    where
        R: Request,
        R::Response: Throttled,
    {
        // Brokers close what has been idle for ten minutes: a kept connection that fails may just have been old.
        if let Some(mut connection) = slot.take() {
            let Some(version) = connection.version::<R>(ours.clone()) else {
                *slot = Some(connection);
                return Ok(None);
            };
            if let Ok(answer) = connection.call(request, version).await {
                *slot = Some(connection);
                return Ok(Some(answer));
            }
        }
        let mut connection = self.connect(address).await?;
        let answer = match connection.version::<R>(ours) {
            Some(version) => Some(connection.call(request, version).await?),
            None => None,
        };
        *slot = Some(connection);
        Ok(answer)
    }

    fn doubt(&self, address: Option<&String>) {
        self.known().doubtful.extend(address.cloned());
    }

    pub(super) fn known_address(&self, broker: i32) -> Result<String> {
        let unknown = || Error::transient(format!("broker {broker} is not in the cluster's metadata"));
        self.address(broker).ok_or_else(unknown)
    }

    /// Returns the addresses to try: known brokers, from a random one on so that clients spread, then the bootstrap
    /// servers, which may be all that is left when every broker has moved; at last those that did not answer before.
    pub(super) fn addresses(&self) -> Vec<String> {
        let mut addresses: Vec<String> = self.known().brokers.values().cloned().collect();
        if !addresses.is_empty() {
            let first = fastrand::usize(..addresses.len());
            addresses.rotate_left(first);
        }
        for server in &self.properties().bootstrap_servers {
            if !addresses.contains(server) {
                addresses.push(server.clone());
            }
        }
        let known = self.known();
        addresses.sort_by_key(|address| known.doubtful.contains(address));
        addresses
    }
}
