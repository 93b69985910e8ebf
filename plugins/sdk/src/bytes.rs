//! Small runs of bytes, compared and copied without a call: in WebAssembly each costs more than what it does.

/// Returns whether two runs of bytes are the same, as `==` does, and sooner where they are short.
#[inline(always)]
pub fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && match left.len() {
            // Both ends, which overlap where there is nothing between.
            8..=16 => ends::<8>(left, right),
            4..8 => ends::<4>(left, right),
            2..4 => ends::<2>(left, right),
            1 => left[0] == right[0],
            0 => true,
            _ => same_long(left, right),
        }
}

/// Compares runs of one length, sixteen bytes or more.
#[inline(never)]
fn same_long(left: &[u8], right: &[u8]) -> bool {
    ends::<16>(left, right) && left.chunks_exact(8).zip(right.chunks_exact(8)).all(|(left, right)| left == right)
}

#[inline(always)]
fn ends<const N: usize>(left: &[u8], right: &[u8]) -> bool {
    left.first_chunk::<N>() == right.first_chunk::<N>() && left.last_chunk::<N>() == right.last_chunk::<N>()
}

/// Copies a run to the beginning of another that is at least as long.
///
/// # Panics
/// If it is shorter.
#[inline]
pub fn copy(to: &mut [u8], bytes: &[u8]) {
    let to = &mut to[..bytes.len()];
    match bytes.len() {
        0 => {}
        1 => to[0] = bytes[0],
        2..4 => both_ends::<2>(to, bytes),
        4..8 => both_ends::<4>(to, bytes),
        8..16 => both_ends::<8>(to, bytes),
        16..=32 => both_ends::<16>(to, bytes),
        _ => to.copy_from_slice(bytes),
    }
}

/// Copies `N` to `2 * N` bytes.
#[inline]
fn both_ends<const N: usize>(to: &mut [u8], bytes: &[u8]) {
    if let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) {
        to[..N].copy_from_slice(first);
        let start = to.len() - N;
        to[start..].copy_from_slice(last);
    }
}

/// Appends a run.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        0 => {}
        1 => out.push(bytes[0]),
        2..4 => overlapping::<2>(out, bytes),
        4..8 => overlapping::<4>(out, bytes),
        8..16 => overlapping::<8>(out, bytes),
        16..=32 => overlapping::<16>(out, bytes),
        _ => out.extend_from_slice(bytes),
    }
}

/// Appends `N` to `2 * N` bytes: the first ones, and the last ones over their end.
#[inline]
fn overlapping<const N: usize>(out: &mut Vec<u8>, bytes: &[u8]) {
    if let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) {
        let end = out.len() + bytes.len();
        out.extend_from_slice(first);
        out.truncate(end - N);
        out.extend_from_slice(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_every_length_are_copied_and_compared() {
        let bytes: Vec<u8> = (0..100).collect();
        for length in 0..bytes.len() {
            let run = &bytes[..length];
            let mut out = vec![7];
            put(&mut out, run);
            assert_eq!(out, [&[7], run].concat());
            let mut to = [7; 101];
            copy(&mut to, run);
            assert_eq!((&to[..length], to[length]), (run, 7));
            assert!(same(run, &out[1..]));
            assert!(!same(run, &out));
            for at in 0..length {
                let mut other = run.to_vec();
                other[at] ^= 1;
                assert!(!same(run, &other), "{at} of {length}");
            }
        }
    }
}
