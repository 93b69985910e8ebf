//! A record as `cat` prints it: JSON that keeps null, bytes that are no text, and headers in their order.

use std::fmt;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::batch::records::Record;
use crate::record::Partition;

/// A record as a line of JSON.
pub(in crate::cli) struct Line<'a> {
    /// The partition that it is of.
    pub(in crate::cli) partition: &'a Partition,
    /// The record.
    pub(in crate::cli) record: &'a Record,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self { partition, record } = self;
        let mut map = serializer.serialize_map(Some(7))?;
        map.serialize_entry("topic", &*partition.topic)?;
        map.serialize_entry("partition", &partition.index)?;
        map.serialize_entry("offset", &record.offset)?;
        map.serialize_entry("timestamp", &record.timestamp.0)?;
        map.serialize_entry("key", &record.key.as_deref().map(Text))?;
        map.serialize_entry("value", &record.value.as_deref().map(Text))?;
        map.serialize_entry("headers", &Headers(&record.headers))?;
        map.end()
    }
}

/// Headers as an array of objects, so that order and duplicates survive.
struct Headers<'a>(&'a [(Bytes, Option<Bytes>)]);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(name, value)| HeaderLine { name, value: value.as_deref() }))
    }
}

struct HeaderLine<'a> {
    name: &'a [u8],
    value: Option<&'a [u8]>,
}

impl Serialize for HeaderLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("key", &Text(self.name))?;
        map.serialize_entry("value", &self.value.map(Text))?;
        map.end()
    }
}

/// Bytes as a string where they are UTF-8, else as `{"base64": "…"}`.
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &Shown(Base64Display::new(self.0, &STANDARD)))?;
                map.end()
            }
        }
    }
}

/// Something that displays, written without a string of its own.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
