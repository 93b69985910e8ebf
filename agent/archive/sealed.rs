//! JSON objects that carry their own checksum: no byte of them can change unnoticed.
//!
//! The last key of each is `checksum`: CRC-32C, eight hexadecimal digits, of every byte before those digits. A reader of
//! JSON reads it as a key like others; who writes one by hand must get it right. Pure.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// What stands between the value and its checksum.
const BEFORE: &[u8] = b",\n\"checksum\": \"";

/// What stands behind the checksum.
const AFTER: &[u8] = b"\"\n}\n";

/// The digits of a checksum.
const DIGITS: usize = 8;

/// Writes a value that is a JSON object with at least one key, a key a line.
pub fn pretty(value: &impl Serialize) -> Bytes {
    seal(serde_json::to_vec_pretty(value).expect("plain values have a JSON form"))
}

/// Writes a value that is a JSON object with at least one key, in as few bytes as it takes.
pub fn compact(value: &impl Serialize) -> Bytes {
    seal(serde_json::to_vec(value).expect("plain values have a JSON form"))
}

/// Reads a value.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) for bytes that were not written so;
/// [`Kind::Newer`](crate::error::Kind::Newer) for bytes that were, and describe no such value.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let sealed = bytes.strip_suffix(AFTER).and_then(|bytes| bytes.split_last_chunk::<DIGITS>());
    let (told, digits) = sealed.ok_or_else(|| Error::damaged("it does not end with its checksum"))?;
    if !told.ends_with(BEFORE) {
        return Err(Error::damaged("it does not end with its checksum"));
    }
    if digits[..] != *checksum(told).as_bytes() {
        return Err(Error::damaged("it does not match its checksum"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        // No byte of it has changed since it was written: whoever wrote it writes otherwise than we do.
        if error.is_data() { Error::newer("it").source(error) } else { Error::damaged("it is no JSON").source(error) }
    })
}

fn seal(mut bytes: Vec<u8>) -> Bytes {
    let closing = bytes.pop();
    debug_assert_eq!(closing, Some(b'}'), "an object");
    bytes.truncate(bytes.trim_ascii_end().len());
    bytes.extend_from_slice(BEFORE);
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes.extend_from_slice(AFTER);
    bytes.into()
}

fn checksum(bytes: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(bytes))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        name: String,
        inner: Vec<Vec<i64>>,
        last: Option<Box<Sample>>,
    }

    fn sample() -> Sample {
        let inner = Sample { name: "}".into(), inner: vec![vec![1, 2]], last: None };
        Sample { name: "ä \"}\n".into(), inner: Vec::new(), last: Some(Box::new(inner)) }
    }

    #[test]
    fn a_value_reads_back_and_is_json_for_everybody() {
        for bytes in [pretty(&sample()), compact(&sample())] {
            assert_eq!(read::<Sample>(&bytes).expect("sound"), sample());
            let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
            assert_eq!(value["checksum"].as_str().map(str::len), Some(DIGITS));
        }
    }

    #[test]
    fn what_is_whole_and_describes_another_value_is_of_a_newer_program_and_not_damaged() {
        let newer = serde_json::json!({"name": {"first": "a"}, "inner": [], "last": null});
        let error = read::<Sample>(&pretty(&newer)).expect_err("another value");
        assert!(error.kind() == crate::error::Kind::Newer && error.exit_code() == 1, "{error}");
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_found() {
        for bytes in [pretty(&sample()), compact(&sample())] {
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut flipped = bytes.to_vec();
                    flipped[at] ^= 1 << bit;
                    assert!(read::<Sample>(&flipped).is_err(), "byte {at} bit {bit}");
                }
                assert!(read::<Sample>(&bytes[..at]).is_err(), "length {at}");
            }
        }
    }
}
