//! Memory for what is read in large pieces, and for large requests: frames are put into memory that is used again when
//! every slice of it is gone.
//!
//! Fresh memory costs a page fault per 4 KiB, more than checking the bytes that come into it. Nothing is copied: what was
//! read is sliced where it is. Huge pages were tried: cheaper where they are at hand, several times dearer on
//! a virtual machine that gives free ones back to its host.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

/// Frames from this size on are pooled. Smaller ones come from memory that the allocator has at hand.
const POOLED_FROM_BYTES: usize = 512 << 10;

/// Pooled memory is allocated in multiples of this, so that frames of slightly different sizes share it.
const STEP_BYTES: usize = 1 << 20;

/// Idle memory that a connection keeps for use again. With half, a sink that holds two frames while two are on their way
/// would make us allocate for each; with twice as many, an idle connection would hold twice the memory.
const KEPT: usize = 4;

/// Memory for a larger frame than this is not kept: one batch of 100 MB must not cost its memory for ever.
const KEPT_BYTES: usize = 8 << 20;

/// The memory of one connection, or of all that read one store.
#[derive(Debug)]
pub(crate) struct Frames {
    idle: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    memory: Mutex<Vec<Vec<u8>>>,
    kept: usize,
}

/// Memory that a frame is read into.
#[derive(Debug)]
pub(crate) struct Frame {
    memory: Vec<u8>,
    length: usize,
    pool: Weak<Pool>,
}

impl Frames {
    /// Makes one that keeps so many pieces of idle memory.
    pub(crate) fn keeping(kept: usize) -> Self {
        Self { idle: Arc::new(Pool { memory: Mutex::default(), kept }) }
    }

    /// Takes memory for a frame of `bytes`.
    pub(crate) fn take(&self, bytes: usize) -> Frame {
        let pool = Arc::downgrade(&self.idle);
        if bytes < POOLED_FROM_BYTES {
            return Frame { memory: vec![0; bytes], length: bytes, pool };
        }
        let mut idle = self.idle.memory.lock().expect("nobody panics while holding the pool");
        // The newest first: what of it is still in the processor's cache need not be fetched again.
        let fitting = idle.iter().rposition(|memory| memory.len() >= bytes);
        // New memory comes zeroed from the system, untouched.
        let memory = fitting.map_or_else(|| vec![0; bytes.next_multiple_of(STEP_BYTES)], |at| idle.remove(at));
        Frame { memory, length: bytes, pool }
    }
}

impl Default for Frames {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl Frame {
    /// Returns the bytes to be filled.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }

    /// Returns the frame to be sliced; its memory is used again when the last slice is gone.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if !(POOLED_FROM_BYTES..=KEPT_BYTES).contains(&self.memory.len()) {
            return;
        }
        // Without a pool the connection is gone, and the memory goes too.
        let Some(pool) = self.pool.upgrade() else { return };
        let mut idle = pool.memory.lock().expect("nobody panics while holding the pool");
        if idle.len() >= pool.kept {
            // The oldest: sizes follow what is fetched now.
            drop(idle.remove(0));
        }
        idle.push(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frames: &Frames, bytes: usize) -> (Bytes, *const u8) {
        let mut frame = frames.take(bytes);
        frame.bytes_mut().fill(7);
        let frame = frame.freeze();
        let at = frame.as_ptr();
        (frame, at)
    }

    #[test]
    fn memory_is_used_again_when_its_slices_are_gone_and_never_before() {
        let frames = Frames::default();
        let (first, at_first) = read(&frames, POOLED_FROM_BYTES);
        let (second, at_second) = read(&frames, POOLED_FROM_BYTES);
        assert_ne!(at_first, at_second);
        let slice = first.slice(10..20);
        drop(first);
        let (third, at_third) = read(&frames, POOLED_FROM_BYTES);
        assert!(at_third != at_first && at_third != at_second);
        drop((slice, second, third));
        let again = read(&frames, POOLED_FROM_BYTES).1;
        assert!([at_first, at_second, at_third].contains(&again));
    }

    #[test]
    fn idle_memory_is_bounded_and_goes_with_the_connection() {
        let frames = Frames::default();
        let held: Vec<_> = (0..20).map(|_| read(&frames, POOLED_FROM_BYTES).0).collect();
        let (kept, later) = held.split_at(10);
        assert!(kept.iter().all(|frame| frame.iter().all(|byte| *byte == 7)));
        let later = later.to_vec();
        drop(held);
        assert_eq!(frames.idle.memory.lock().expect("a pool").len(), KEPT);
        drop(frames);
        assert_eq!(later[0][0], 7);
    }

    #[test]
    fn a_small_frame_is_ordinary_memory() {
        let frames = Frames::default();
        assert_eq!(read(&frames, 3).0, &[7; 3][..]);
        assert!(frames.idle.memory.lock().expect("a pool").is_empty());
    }
}
