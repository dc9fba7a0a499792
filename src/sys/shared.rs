//! Numbers that a parent and its children share: memory inherited across fork, which everybody sees at once, without a
//! system call. It disappears with the last process, and survives none.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// The memory. Never unmapped: whoever made it, or inherited it, keeps it until its process ends.
#[derive(Debug, Clone, Copy)]
pub struct SharedNumbers {
    numbers: NonNull<[AtomicU64]>,
}

// SAFETY: the memory is only ever used through atomics.
#[expect(unsafe_code, reason = "a shared mapping of atomics")]
unsafe impl Send for SharedNumbers {}

// SAFETY: as above.
#[expect(unsafe_code, reason = "a shared mapping of atomics")]
unsafe impl Sync for SharedNumbers {}

impl SharedNumbers {
    /// So many, all zero. To be called before the children are forked.
    #[expect(unsafe_code, reason = "mmap(2)")]
    pub fn create(count: usize) -> io::Result<SharedNumbers> {
        // An empty mapping is refused.
        let length = size_of::<AtomicU64>() * count.max(1);
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(memory.cast()) {
            Some(first) => Ok(SharedNumbers {
                numbers: NonNull::slice_from_raw_parts(first, count),
            }),
            None => Err(io::Error::other("mmap(2) returned no address")),
        }
    }

    #[expect(unsafe_code, reason = "a shared mapping of atomics")]
    pub fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, zero-initialised, as long as the slice, and never unmapped.
        unsafe { self.numbers.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::SharedNumbers;

    #[test]
    fn what_one_writes_the_other_reads() {
        let numbers = SharedNumbers::create(1000).unwrap();
        let copy = numbers;
        copy.all()[3].store(7, Ordering::Release);
        assert_eq!(numbers.all()[3].load(Ordering::Acquire), 7);
        assert_eq!(numbers.all()[999].load(Ordering::Acquire), 0);
    }
}
