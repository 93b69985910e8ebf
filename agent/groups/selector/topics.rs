//! Which partitions of which topics are meant: the values of Kafka's `--topic`, `orders` or `orders:0,1,2`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};

/// The topics that are meant, and which of their partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicChoice {
    /// The partitions of each topic; `None` for all.
    topics: BTreeMap<String, Option<BTreeSet<i32>>>,
}

impl TopicChoice {
    /// Reads the values of `--topic`, each of one topic. What several say of one topic counts together.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a value that is neither a topic nor a topic with numbers behind a colon.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut topics = BTreeMap::<String, Option<BTreeSet<i32>>>::new();
        for value in values {
            let (topic, partitions) = read(value)?;
            match (topics.get_mut(topic), partitions) {
                (None, partitions) => drop(topics.insert(topic.to_owned(), partitions)),
                (Some(Some(held)), Some(more)) => held.extend(more),
                (Some(held), _) => *held = None,
            }
        }
        Ok(Self { topics })
    }

    /// Returns whether a partition is meant.
    pub fn contains(&self, topic: &str, partition: i32) -> bool {
        let of = |partitions: &Option<BTreeSet<i32>>| partitions.as_ref().is_none_or(|of| of.contains(&partition));
        self.topics.get(topic).is_some_and(of)
    }

    /// Returns the topics, each with the partitions that are meant, `None` for all.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&BTreeSet<i32>>)> {
        self.topics.iter().map(|(topic, partitions)| (topic.as_str(), partitions.as_ref()))
    }

    /// Returns whether none is meant.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }
}

fn read(value: &str) -> Result<(&str, Option<BTreeSet<i32>>)> {
    let wrong = |what: String| {
        Error::usage(what)
            .hint("write the topic alone, or the numbers of its partitions behind it: --topic orders:0,1,2")
    };
    let expected = || wrong(format!("invalid topic arg '{value}', expected topic name and partitions"));
    let Some((topic, numbers)) = value.split_once(':') else {
        return if value.is_empty() { Err(expected()) } else { Ok((value, None)) };
    };
    if topic.is_empty() || numbers.is_empty() || numbers.contains(':') {
        return Err(expected());
    }
    let mut partitions = BTreeSet::new();
    for text in numbers.split(',') {
        let number = text.parse().ok().filter(|number: &i32| *number >= 0);
        let invalid = || wrong(format!("invalid partition '{text}' specified in topic arg '{value}'"));
        let _ = partitions.insert(number.ok_or_else(invalid)?);
    }
    Ok((topic, Some(partitions)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_meant_whole_or_in_parts() {
        let choice = TopicChoice::parse(["orders:0,2", "payments", "orders:5", "audit:1", "audit"]).expect("right");
        let meant = |topic, numbers: std::ops::Range<i32>| {
            numbers.filter(|number| choice.contains(topic, *number)).collect::<Vec<_>>()
        };
        assert_eq!(meant("orders", 0..9), [0, 2, 5]);
        assert_eq!((meant("payments", 0..3).len(), meant("audit", 0..3).len(), meant("x", 0..3).len()), (3, 3, 0));
        assert_eq!(choice.iter().map(|(topic, _)| topic).collect::<Vec<_>>(), ["audit", "orders", "payments"]);
        assert!(TopicChoice::default().is_empty() && !choice.is_empty());
    }

    #[test]
    fn what_is_no_topic_with_partitions_is_refused_as_kafka_does() {
        for (value, what) in [
            ("a:b:0", "invalid topic arg 'a:b:0', expected topic name and partitions"),
            ("a:", "invalid topic arg 'a:', expected topic name and partitions"),
            (":0", "invalid topic arg ':0', expected topic name and partitions"),
            ("", "invalid topic arg '', expected topic name and partitions"),
            ("a:0,x", "invalid partition 'x' specified in topic arg 'a:0,x'"),
            ("a:-1", "invalid partition '-1' specified in topic arg 'a:-1'"),
            ("a:0,", "invalid partition '' specified in topic arg 'a:0,'"),
        ] {
            let error = TopicChoice::parse([value]).expect_err("wrong");
            assert!(error.to_string().starts_with(what) && error.exit_code() == 2, "{error}");
        }
    }
}
