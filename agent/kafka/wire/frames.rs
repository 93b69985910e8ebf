//! Memory for answers: a handful of buffers in rotation, each used again when every slice of it has been dropped.
//!
//! Fresh memory costs a page fault per 4 KiB, more than checking the bytes that come into it. Nothing is zeroed, and
//! nothing is copied: an answer is frozen where it was read.

use bytes::BytesMut;

/// Buffers kept for use again. With half, a sink that holds two frames while two are on their way would make us
/// allocate for each; with twice as many, an idle connection would hold twice the memory.
const KEPT: usize = 4;

/// Buffers are allocated in multiples of this, so that frames of slightly different sizes share them.
const STEP_BYTES: usize = 64 << 10;

/// The buffers of one connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffers: Vec<BytesMut>,
}

impl Frames {
    /// Takes an empty buffer with room for `bytes`: one in rotation if its slices are gone, else a new one.
    pub(super) fn take(&mut self, bytes: usize) -> BytesMut {
        // The newest first: what of it is still in the processor's cache need not be fetched again.
        for at in (0..self.buffers.len()).rev() {
            if self.buffers[at].try_reclaim(bytes) {
                return self.buffers.remove(at);
            }
        }
        if self.buffers.len() >= KEPT {
            // The oldest: whoever holds its slices frees it.
            drop(self.buffers.remove(0));
        }
        BytesMut::with_capacity(bytes.next_multiple_of(STEP_BYTES))
    }

    /// Gives back what [`Frames::take`] gave, after its bytes were split off.
    pub(super) fn give(&mut self, buffer: BytesMut) {
        self.buffers.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frames: &mut Frames, bytes: usize) -> (bytes::Bytes, *const u8) {
        let mut buffer = frames.take(bytes);
        buffer.resize(bytes, 7);
        let frame = buffer.split().freeze();
        frames.give(buffer);
        let at = frame.as_ptr();
        (frame, at)
    }

    #[test]
    fn a_buffer_is_used_again_when_its_slices_are_gone_and_never_before() {
        let mut frames = Frames::default();
        let (first, at_first) = read(&mut frames, STEP_BYTES);
        let (second, at_second) = read(&mut frames, STEP_BYTES);
        assert_ne!(at_first, at_second);
        let slice = first.slice(10..20);
        drop(first);
        let (_third, at_third) = read(&mut frames, STEP_BYTES);
        assert_ne!(at_third, at_first);
        drop((slice, second));
        let again: Vec<_> = (0..2).map(|_| read(&mut frames, STEP_BYTES).1).collect();
        assert!(again.iter().all(|at| *at == at_first || *at == at_second));
    }

    #[test]
    fn buffers_kept_are_bounded() {
        let mut frames = Frames::default();
        let held: Vec<_> = (0..20).map(|_| read(&mut frames, STEP_BYTES).0).collect();
        assert_eq!((frames.buffers.len(), held.len()), (KEPT, 20));
    }
}
