//! Records from JSON lines, as `cat` prints them, gathered as a stage would get them: of one partition, in order.

use std::io::{BufRead, Read as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use crate::batch::records::Record;
use crate::batch::records::rows::Rows;
use crate::error::{Error, Result};
use crate::record::{Offset, Partition, Timestamp, TopicId};

/// The most records and bytes that are gathered; about a large batch of a producer.
const MOST_RECORDS: usize = 1000;
const MOST_BYTES: usize = 1 << 20;

/// The most bytes of one line. A broker takes records of megabytes at most, each byte of which is six in JSON at worst.
const MOST_LINE_BYTES: u64 = 256 << 20;

/// Records of one partition, one after the other.
pub(super) struct Piece {
    pub(super) partition: Partition,
    pub(super) rows: Rows,
}

/// The records of a file, piece by piece. An error ends it, behind the records that came before.
pub(super) struct Batches<R> {
    reader: R,
    most_line_bytes: u64,
    number: u64,
    /// The first record of the next piece.
    ahead: Option<(Partition, Record)>,
    /// What the next piece ended with.
    error: Option<Error>,
    failed: bool,
}

impl<R: BufRead> Batches<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, most_line_bytes: MOST_LINE_BYTES, number: 0, ahead: None, error: None, failed: false }
    }

    /// Reads the next line that is not empty; `None` at the end.
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let mut line = Vec::new();
            self.number += 1;
            let read = self.reader.by_ref().take(self.most_line_bytes + 1).read_until(b'\n', &mut line);
            let read =
                read.map_err(|error| Error::failed(format!("line {} cannot be read", self.number)).source(error))?;
            if read == 0 {
                return Ok(None);
            }
            if line.trim_ascii_end().len() as u64 > self.most_line_bytes {
                let most = self.most_line_bytes;
                return Err(Error::usage(format!("line {} is longer than {most} bytes, the most", self.number)));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn read(&mut self) -> Result<Option<(Partition, Record)>> {
        let Some(line) = self.line()? else { return Ok(None) };
        let wrong =
            |why: String| Error::usage(format!("line {} is no record as `cat` prints it", self.number)).source(why);
        let read: Line = serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
        read.into_record().map(Some).map_err(wrong)
    }

    fn piece(&mut self) -> Result<Option<Piece>> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let Some((partition, first)) = self.ahead.take().map_or_else(|| self.read(), |ahead| Ok(Some(ahead)))? else {
            return Ok(None);
        };
        let mut bytes = size(&first);
        let mut records = vec![first];
        while records.len() < MOST_RECORDS && bytes < MOST_BYTES {
            match self.read() {
                Ok(None) => break,
                Ok(Some((other, record)))
                    if other == partition && records.last().is_some_and(|last| last.offset < record.offset) =>
                {
                    bytes += size(&record);
                    records.push(record);
                }
                Ok(other) => {
                    self.ahead = other;
                    break;
                }
                Err(error) => {
                    self.error = Some(error);
                    break;
                }
            }
        }
        Ok(Some(Piece { partition, rows: Rows::from_records(&records)? }))
    }
}

impl<R: BufRead> Iterator for Batches<R> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let piece = self.piece();
        self.failed = piece.is_err();
        piece.transpose()
    }
}

fn size(record: &Record) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + length(value));
    length(&record.key) + length(&record.value) + headers.sum::<usize>()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    topic: String,
    partition: i32,
    offset: Offset,
    timestamp: i64,
    key: Option<Text>,
    value: Option<Text>,
    #[serde(default)]
    headers: Vec<HeaderLine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    key: Text,
    value: Option<Text>,
}

/// Bytes: a string, or `{"base64": "…"}`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "write a string, null, or {\"base64\": \"…\"}")]
enum Text {
    Plain(String),
    Base64 { base64: String },
}

impl Text {
    fn into_bytes(self) -> Result<Bytes, String> {
        match self {
            Self::Plain(text) => Ok(text.into()),
            Self::Base64 { base64 } => STANDARD.decode(&base64).map(Bytes::from).map_err(|error| error.to_string()),
        }
    }
}

impl Line {
    fn into_record(self) -> Result<(Partition, Record), String> {
        if self.partition < 0 || self.offset < 0 {
            return Err(format!("partition {} and offset {} must not be negative", self.partition, self.offset));
        }
        let bytes = |text: Option<Text>| text.map(Text::into_bytes).transpose();
        let headers = self.headers.into_iter().map(|header| Ok((header.key.into_bytes()?, bytes(header.value)?)));
        let record = Record {
            offset: self.offset,
            timestamp: Timestamp(self.timestamp),
            key: bytes(self.key)?,
            value: bytes(self.value)?,
            headers: headers.collect::<Result<_, String>>()?,
        };
        let partition = Partition { topic: Arc::from(self.topic), topic_id: TopicId::NONE, index: self.partition };
        Ok((partition, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::cat::line::Line as Printed;

    fn pieces(text: &str) -> Vec<Result<Piece>> {
        Batches::new(text.as_bytes()).collect()
    }

    #[test]
    fn what_cat_prints_reads_back() {
        let record = Record {
            offset: 7,
            timestamp: Timestamp(-1),
            key: None,
            value: Some(Bytes::from_static(&[0xff, 0])),
            headers: vec![(Bytes::from_static(b"a"), None), (Bytes::from_static(b"a"), Some(Bytes::new()))],
        };
        let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 3 };
        let line = serde_json::to_string(&Printed { partition: &partition, record: &record }).expect("JSON");
        let [piece] = &pieces(&format!("{line}\n\n"))[..] else { panic!("one piece") };
        let piece = piece.as_ref().expect("a record");
        assert_eq!(piece.partition, partition);
        assert_eq!(piece.rows.record(&piece.rows.rows()[0]), record);
    }

    #[test]
    fn a_piece_is_of_one_partition_and_in_order() {
        let line = |partition: i32, offset: i64| {
            format!(
                "{{\"topic\":\"t\",\"partition\":{partition},\"offset\":{offset},\"timestamp\":1,\"key\":null,\"value\":\"\"}}\n"
            )
        };
        let text = [line(0, 1), line(0, 2), line(1, 0), line(1, 0), line(0, 3)].concat();
        let lengths: Vec<_> = pieces(&text).into_iter().map(|piece| piece.expect("records").rows.len()).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
    }

    #[test]
    fn what_is_no_record_is_named_by_its_line() {
        let good = "{\"topic\":\"t\",\"partition\":0,\"offset\":1,\"timestamp\":1,\"key\":null,\"value\":\"\"}\n";
        for bad in [
            "nonsense",
            "{\"topic\":\"t\"}",
            "{\"topic\":\"t\",\"partition\":-1,\"offset\":1,\"timestamp\":1,\"value\":null}",
            "{\"topic\":\"t\",\"partition\":0,\"offset\":-5,\"timestamp\":1,\"value\":null}",
            "{\"topic\":\"t\",\"partition\":0,\"offset\":1,\"timestamp\":1,\"value\":{\"base64\":\"?\"}}",
        ] {
            let [before, last] = &pieces(&format!("{good}{bad}\n{good}"))[..] else { panic!("two pieces") };
            assert_eq!(before.as_ref().expect("what came before stands").rows.len(), 1);
            let error = last.as_ref().err().expect("refused").to_string();
            assert!(error.starts_with("line 2 is no record as `cat` prints it: "), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_told_to_be_no_record() {
        struct Broken;
        impl std::io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("the disk is gone"))
            }
        }
        let [Err(error)] = &Batches::new(std::io::BufReader::new(Broken)).collect::<Vec<_>>()[..] else {
            panic!("an error")
        };
        assert_eq!(error.to_string(), "line 1 cannot be read: the disk is gone");
    }

    #[test]
    fn a_line_without_an_end_is_not_read_to_it() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let batches = Batches { most_line_bytes: 1000, ..Batches::new(endless) };
        let [Err(error)] = &batches.collect::<Vec<_>>()[..] else { panic!("an error") };
        assert_eq!(error.to_string(), "line 1 is longer than 1000 bytes, the most");
    }

    #[test]
    fn headers_count_among_the_bytes_of_a_piece() {
        let header = "h".repeat(600 << 10);
        let line = |offset: u32| {
            format!(
                "{{\"topic\":\"t\",\"partition\":0,\"offset\":{offset},\"timestamp\":1,\"key\":null,\"value\":null,\
                 \"headers\":[{{\"key\":\"{header}\",\"value\":null}}]}}\n"
            )
        };
        let text: String = (0..4).map(line).collect();
        let lengths: Vec<_> = pieces(&text).into_iter().map(|piece| piece.expect("records").rows.len()).collect();
        assert_eq!(lengths, [2, 2]);
    }
}
