//! Memory for answers: large frames are read into huge pages that are used again when every slice of them is gone.
//!
//! Fresh memory costs a page fault per 4 KiB, more than checking the bytes that come into it; a huge page costs one
//! fault per 2 MiB. Nothing is copied: an answer is sliced where it was read. Small frames are ordinary memory.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};

/// Frames from this size on are read into huge pages. Smaller ones would waste most of a page.
const HUGE_FROM_BYTES: usize = 512 << 10;

/// The size of a huge page on the machines in use; elsewhere the advice is only less apt.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Idle memory kept for use again. With half, a sink that holds two frames while two are on their way would make us
/// map anew for each; with twice as many, an idle connection would hold twice the memory.
const KEPT: usize = 4;

/// Memory for a larger frame than this is not kept: one batch of 100 MB must not cost its memory for ever.
const KEPT_BYTES: usize = 8 << 20;

/// The memory of one connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    idle: Arc<Pool>,
}

type Pool = Mutex<Vec<MmapMut>>;

/// Memory that a frame is read into.
#[derive(Debug)]
pub(super) struct Frame {
    memory: Memory,
    length: usize,
    pool: Weak<Pool>,
}

#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    /// `None` once it has gone back.
    Huge(Option<MmapMut>),
}

impl Frames {
    /// Takes memory for a frame of `bytes`.
    ///
    /// # Errors
    /// Those of the system, when there is no memory.
    pub(super) fn take(&mut self, bytes: usize) -> std::io::Result<Frame> {
        let pool = Arc::downgrade(&self.idle);
        if bytes < HUGE_FROM_BYTES {
            return Ok(Frame { memory: Memory::Heap(vec![0; bytes]), length: bytes, pool });
        }
        let mut idle = self.idle.lock().expect("nobody panics while holding the pool");
        // The newest first: what of it is still in the processor's cache need not be fetched again.
        let fitting = idle.iter().rposition(|map| map.len() >= bytes);
        let map = match fitting {
            Some(at) => idle.remove(at),
            None => {
                let map = MmapMut::map_anon(bytes.next_multiple_of(HUGE_PAGE_BYTES))?;
                // A kernel without huge pages serves small ones.
                let _ = map.advise(Advice::HugePage);
                map
            }
        };
        Ok(Frame { memory: Memory::Huge(Some(map)), length: bytes, pool })
    }
}

impl Frame {
    /// Returns the bytes to be filled.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(bytes) => &mut bytes[..self.length],
            Memory::Huge(map) => &mut map.as_mut().expect("only the drop takes it")[..self.length],
        }
    }

    /// Returns the frame to be sliced; its memory is used again when the last slice is gone.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(bytes) => &bytes[..self.length],
            Memory::Huge(map) => &map.as_ref().expect("only the drop takes it")[..self.length],
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let Memory::Huge(map) = &mut self.memory else { return };
        // Without a pool the connection is gone, and the memory goes too.
        let (Some(map), Some(pool)) = (map.take(), self.pool.upgrade()) else { return };
        if map.len() > KEPT_BYTES {
            return;
        }
        let mut idle = pool.lock().expect("nobody panics while holding the pool");
        if idle.len() >= KEPT {
            // The oldest: sizes follow what is fetched now.
            drop(idle.remove(0));
        }
        idle.push(map);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frames: &mut Frames, bytes: usize) -> (Bytes, *const u8) {
        let mut frame = frames.take(bytes).expect("memory");
        frame.bytes_mut().fill(7);
        let frame = frame.freeze();
        let at = frame.as_ptr();
        (frame, at)
    }

    #[test]
    fn memory_is_used_again_when_its_slices_are_gone_and_never_before() {
        let mut frames = Frames::default();
        let (first, at_first) = read(&mut frames, HUGE_FROM_BYTES);
        let (second, at_second) = read(&mut frames, HUGE_FROM_BYTES);
        assert_ne!(at_first, at_second);
        let slice = first.slice(10..20);
        drop(first);
        let (third, at_third) = read(&mut frames, HUGE_FROM_BYTES);
        assert!(at_third != at_first && at_third != at_second);
        drop((slice, second, third));
        let again = read(&mut frames, HUGE_FROM_BYTES).1;
        assert!([at_first, at_second, at_third].contains(&again));
    }

    #[test]
    fn idle_memory_is_bounded_and_goes_with_the_connection() {
        let mut frames = Frames::default();
        let held: Vec<_> = (0..20).map(|_| read(&mut frames, HUGE_FROM_BYTES).0).collect();
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
