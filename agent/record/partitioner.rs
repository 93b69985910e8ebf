//! Which partition a record goes to by its key, as Kafka's own producer chooses it.
//!
//! Pure. The hash is MurmurHash2 of 32 bits with Kafka's seed
//! (`org.apache.kafka.common.utils.Utils.murmur2`; librdkafka calls the partitioner `murmur2_random`): records of one key go
//! where a producer of the same topic sends new ones of that key. Records without a key go round robin, by a counter that
//! the caller keeps: what is a function of the record itself sends it to the same partition whenever it is sent again.

/// Kafka's seed.
const SEED: u32 = 0x9747_b28c;

const M: u32 = 0x5bd1_e995;

/// Returns the partition, of so many, that a record goes to: by its key, else by `counter`.
///
/// # Panics
/// When there are no partitions.
pub fn partition_of(key: Option<&[u8]>, counter: u64, partitions: u32) -> u32 {
    match key {
        // Kafka's `toPositive`: the sign is cut off, not turned.
        Some(key) => (murmur2(key) & 0x7fff_ffff) % partitions,
        None => (counter % u64::from(partitions)) as u32,
    }
}

fn murmur2(bytes: &[u8]) -> u32 {
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_kafkas_own_tests() {
        // `UtilsTest.testMurmur2`, and librdkafka's `unittest_murmur2`.
        let known: [(&str, i32); 14] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
            ("kafka", 0xd067_cf64_u32 as i32),
            ("giberish123456789", 0x8f55_2b0c_u32 as i32),
            ("1234", 0x9fc9_7b14_u32 as i32),
            ("234", 0xe7c0_09ca_u32 as i32),
            ("34", 0x8739_30da_u32 as i32),
            ("4", 0x5a4b_5ca1),
            ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x7842_4f1c),
            ("", 0x106e_08d9),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn a_key_has_one_partition_and_what_has_none_goes_round() {
        assert_eq!(partition_of(Some(b"21"), 7, 6), ((-973_932_308_i32) as u32 & 0x7fff_ffff) % 6);
        assert!((0..100).all(|counter| partition_of(Some(b"k"), counter, 6) == partition_of(Some(b"k"), 0, 6)));
        assert!((0..12).map(|counter| partition_of(None, counter, 6)).eq((0..6).chain(0..6)));
        assert_eq!(partition_of(Some(b""), 5, 1), 0, "an empty key is one");
    }
}
