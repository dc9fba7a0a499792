//! A few numbers that a parent and its children share: one page of memory, inherited across fork. Every number has one
//! writer; readers see it at once, without a system call. It disappears with the last process, and survives none.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// How many numbers fit.
pub const SLOTS: usize = 64;

/// The page. Never unmapped: whoever made it, or inherited it, keeps it until its process ends.
#[derive(Debug, Clone, Copy)]
pub struct SharedNumbers {
    slots: NonNull<[AtomicU64; SLOTS]>,
}

// SAFETY: the page is only ever used through atomics.
#[expect(unsafe_code, reason = "a shared mapping of atomics")]
unsafe impl Send for SharedNumbers {}

// SAFETY: as above.
#[expect(unsafe_code, reason = "a shared mapping of atomics")]
unsafe impl Sync for SharedNumbers {}

impl SharedNumbers {
    /// All zero. To be called before the children are forked.
    #[expect(unsafe_code, reason = "mmap(2)")]
    pub fn create() -> io::Result<SharedNumbers> {
        let length = size_of::<[AtomicU64; SLOTS]>();
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(page.cast()) {
            Some(slots) => Ok(SharedNumbers { slots }),
            None => Err(io::Error::other("mmap(2) returned no address")),
        }
    }

    #[expect(unsafe_code, reason = "a shared mapping of atomics")]
    pub fn all(&self) -> &[AtomicU64; SLOTS] {
        // SAFETY: the mapping is page-aligned, zero-initialised, as long as the array, and never unmapped.
        unsafe { self.slots.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::SharedNumbers;

    #[test]
    fn what_one_writes_the_other_reads() {
        let numbers = SharedNumbers::create().unwrap();
        let copy = numbers;
        copy.all()[3].store(7, Ordering::Release);
        assert_eq!(numbers.all()[3].load(Ordering::Acquire), 7);
        assert_eq!(numbers.all()[63].load(Ordering::Acquire), 0);
    }
}
