//! A reader of segments that shares no code with the agent: folders, names, batch headers.

use std::fs;
use std::path::{Path, PathBuf};

use super::agent::Backup;
use super::kafka::{self, Kafka};

/// What the tests need of a record batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    /// Where the batch begins in the bytes it was read from.
    pub(crate) position: usize,
    /// Its length in bytes.
    pub(crate) bytes: usize,
    pub(crate) attributes: i16,
    pub(crate) producer_id: i64,
    pub(crate) base_sequence: i32,
    pub(crate) leader_epoch: i32,
    /// Records in it.
    pub(crate) count: i32,
}

impl Header {
    /// Returns whether the batch holds a transaction marker instead of data.
    pub(crate) fn control(&self) -> bool {
        self.attributes & 0x20 != 0
    }
}

/// Has Kafka's own tool check every batch of the archive.
pub(crate) fn check_with_kafka(kafka: &Kafka, backup: &Backup, topics: &[&str]) {
    let partitions = topics.iter().flat_map(|topic| (0..kafka.partitions(topic)).map(move |p| (topic, p)));
    let segments: Vec<_> = partitions.flat_map(|(topic, partition)| backup.chain(topic, partition).0).collect();
    let files: Vec<_> = segments.iter().map(|segment| segment.path.to_str().expect("UTF-8")).collect();
    let printed = kafka::tool("kafka.tools.DumpLogSegments", &["--deep-iteration", "--files", &files.join(",")]);
    let batches: usize = segments.iter().map(|segment| headers(&segment.bytes).len()).sum();
    assert!(batches > 0, "there is something to check");
    assert_eq!(printed.matches("isvalid: true").count(), batches, "{printed}");
    assert!(!printed.contains("isvalid: false") && !printed.contains("invalid bytes"), "{printed}");
}

/// Returns the headers of the batches in `log`, which must hold whole ones.
pub(crate) fn headers(log: &[u8]) -> Vec<Header> {
    let mut headers = Vec::new();
    let mut position = 0;
    while position < log.len() {
        let field = |at: usize, bytes: usize| {
            let field = log[position + at..position + at + bytes].iter();
            field.fold(0_i64, |value, byte| value << 8 | i64::from(*byte))
        };
        assert_eq!(field(16, 1), 2, "a batch of format v2 at position {position}");
        let header = Header {
            base_offset: field(0, 8),
            last_offset: field(0, 8) + field(23, 4),
            position,
            bytes: field(8, 4) as usize + 12,
            attributes: field(21, 2) as i16,
            producer_id: field(43, 8),
            base_sequence: field(53, 4) as i32,
            leader_epoch: field(12, 4) as i32,
            count: field(57, 4) as i32,
        };
        position += header.bytes;
        assert!(position <= log.len(), "the batch at offset {} is cut off", header.base_offset);
        headers.push(header);
    }
    headers
}

/// Returns the part of `log` before the batch that holds `offset` or what follows it.
pub(crate) fn up_to(log: &[u8], offset: i64) -> &[u8] {
    let end = headers(log).iter().find(|header| header.last_offset >= offset).map_or(log.len(), |h| h.position);
    &log[..end]
}

/// A segment of an archive.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// The first offset that it covers: its name.
    pub(crate) first: i64,
    /// The first offset that it does not cover any more: the name of the one that follows.
    pub(crate) next: i64,
    pub(crate) bytes: Vec<u8>,
}

/// The chain of segments of one partition.
#[derive(Debug)]
pub(crate) struct Chain(pub(crate) Vec<Segment>);

impl Chain {
    /// Reads the chain in `folder` and checks that each segment begins where the one before it ended.
    ///
    /// A segment may appear while the folder is read, but only behind those that were there.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut paths: Vec<_> = match fs::read_dir(folder) {
            Ok(files) => files.map(|file| file.expect("an entry").path()).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => panic!("{}: {error}", folder.display()),
        };
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        paths.sort();
        let segments: Vec<_> = paths.into_iter().map(Segment::read).collect();
        for pair in segments.windows(2) {
            assert_eq!(
                pair[0].next,
                pair[1].first,
                "{} does not begin where its predecessor ends",
                pair[1].path.display()
            );
        }
        Self(segments)
    }

    /// Returns the segments, one after the other.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.iter().map(|segment| segment.bytes.as_slice()).collect::<Vec<_>>().concat()
    }

    /// Returns the first offset that the chain does not hold; 0 where there is no chain.
    pub(crate) fn next(&self) -> i64 {
        self.0.last().map_or(0, |segment| segment.next)
    }
}

impl Segment {
    fn read(path: PathBuf) -> Self {
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        assert_eq!(name.len(), 20, "{} is named by 20 digits", path.display());
        let first = name.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let bytes = fs::read(&path).expect("a segment is readable");
        let next = headers(&bytes).last().unwrap_or_else(|| panic!("{} is empty", path.display())).last_offset + 1;
        Self { path, first, next, bytes }
    }
}

/// Asserts that two logs are equal, and says where they are not without printing them.
#[track_caller]
pub(crate) fn assert_same(what: &str, archive: &[u8], broker: &[u8]) {
    if archive == broker {
        return;
    }
    let differs = archive.iter().zip(broker).position(|(a, b)| a != b);
    let (ours, theirs) = (headers(archive), headers(broker));
    let at = theirs.iter().find(|header| differs.is_some_and(|at| at < header.position + header.bytes));
    panic!(
        "{what}: the archive has {} bytes, the broker {}; the first that differs is {differs:?}, in {at:?}; the last batches \
         are {:?} and {:?}",
        archive.len(),
        broker.len(),
        ours.last(),
        theirs.last()
    );
}

/// Asserts that `archive` is the beginning of `broker`.
#[track_caller]
pub(crate) fn assert_prefix(what: &str, archive: &[u8], broker: &[u8]) {
    assert_same(what, archive, &broker[..archive.len().min(broker.len())]);
}
