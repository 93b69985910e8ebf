//! Memory for answers and large requests: frames are put into memory that is used again when every slice of it is gone.
//!
//! Fresh memory costs a page fault per 4 KiB, more than checking the bytes that come into it. Nothing is copied: an
//! answer is sliced where it was read. Huge pages were tried: cheaper where they are at hand, several times dearer on
//! a virtual machine that gives free ones back to its host.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

/// Frames from this size on are pooled. Smaller ones come from memory that the allocator has at hand.
const POOLED_FROM_BYTES: usize = 512 << 10;

/// Pooled memory is allocated in multiples of this, so that frames of slightly different sizes share it.
const STEP_BYTES: usize = 1 << 20;

/// Idle memory kept for use again. With half, a sink that holds two frames while two are on their way would make us
/// allocate for each; with twice as many, an idle connection would hold twice the memory.
const KEPT: usize = 4;

/// Memory for a larger frame than this is not kept: one batch of 100 MB must not cost its memory for ever.
const KEPT_BYTES: usize = 8 << 20;

/// The memory of one connection.
#[derive(Debug, Default)]
pub(in crate::kafka) struct Frames {
    idle: Arc<Pool>,
}

type Pool = Mutex<Vec<Vec<u8>>>;

/// Memory that a frame is read into.
#[derive(Debug)]
pub(in crate::kafka) struct Frame {
    memory: Vec<u8>,
    length: usize,
    pool: Weak<Pool>,
}

impl Frames {
    /// Takes memory for a frame of `bytes`.
    pub(in crate::kafka) fn take(&mut self, bytes: usize) -> Frame {
        let pool = Arc::downgrade(&self.idle);
        if bytes < POOLED_FROM_BYTES {
            return Frame { memory: vec![0; bytes], length: bytes, pool };
        }
        let mut idle = self.idle.lock().expect("nobody panics while holding the pool");
        // The newest first: what of it is still in the processor's cache need not be fetched again.
        let fitting = idle.iter().rposition(|memory| memory.len() >= bytes);
        // New memory comes zeroed from the system, untouched.
        let memory = fitting.map_or_else(|| vec![0; bytes.next_multiple_of(STEP_BYTES)], |at| idle.remove(at));
        Frame { memory, length: bytes, pool }
    }
}

impl Frame {
    /// Returns the bytes to be filled.
    pub(in crate::kafka) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }

    /// Returns the frame to be sliced; its memory is used again when the last slice is gone.
    pub(in crate::kafka) fn freeze(self) -> Bytes {
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
        let mut idle = pool.lock().expect("nobody panics while holding the pool");
        if idle.len() >= KEPT {
            // The oldest: sizes follow what is fetched now.
            drop(idle.remove(0));
        }
        idle.push(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frames: &mut Frames, bytes: usize) -> (Bytes, *const u8) {
        let mut frame = frames.take(bytes);
        frame.bytes_mut().fill(7);
        let frame = frame.freeze();
        let at = frame.as_ptr();
        (frame, at)
    }

    #[test]
    fn memory_is_used_again_when_its_slices_are_gone_and_never_before() {
        let mut frames = Frames::default();
        let (first, at_first) = read(&mut frames, POOLED_FROM_BYTES);
        let (second, at_second) = read(&mut frames, POOLED_FROM_BYTES);
        assert_ne!(at_first, at_second);
        let slice = first.slice(10..20);
        drop(first);
        let (third, at_third) = read(&mut frames, POOLED_FROM_BYTES);
        assert!(at_third != at_first && at_third != at_second);
        drop((slice, second, third));
        let again = read(&mut frames, POOLED_FROM_BYTES).1;
        assert!([at_first, at_second, at_third].contains(&again));
    }

    #[test]
    fn idle_memory_is_bounded_and_goes_with_the_connection() {
        let mut frames = Frames::default();
        let held: Vec<_> = (0..20).map(|_| read(&mut frames, POOLED_FROM_BYTES).0).collect();
        let (kept, later) = held.split_at(10);
        assert!(kept.iter().all(|frame| frame.iter().all(|byte| *byte == 7)));
        let later = later.to_vec();
        drop(held);
        assert_eq!(frames.idle.lock().expect("a pool").len(), KEPT);
        drop(frames);
        assert_eq!(later[0][0], 7);
    }

    #[test]
    fn a_small_frame_is_ordinary_memory() {
        let mut frames = Frames::default();
        assert_eq!(read(&mut frames, 3).0, &[7; 3][..]);
        assert!(frames.idle.lock().expect("a pool").is_empty());
    }
}
