//! The compiler's coverage counters, when it was asked for them (`scripts/fuzz` does): which branches an input has taken,
//! and about how often. Without them every input looks the same, and mutation starts from the corpus alone.

/// What was seen of each counter: one bit for each order of magnitude.
pub struct Seen(Vec<u8>);

impl Seen {
    pub fn new() -> Seen {
        Seen(vec![0; counters::all().len()])
    }

    /// Forget what was counted.
    pub fn reset(&self) {
        for counter in counters::all() {
            counter.store(0, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Whether anything was counted since `reset` that never was before.
    pub fn note(&mut self) -> bool {
        let mut is_new = false;
        for (counter, seen) in counters::all().iter().zip(&mut self.0) {
            let bit = match counter.load(std::sync::atomic::Ordering::Relaxed) {
                0 => 0,
                1 => 1,
                2 => 2,
                3 => 4,
                4..=7 => 8,
                8..=15 => 16,
                16..=31 => 32,
                32..=127 => 64,
                128.. => 128,
            };
            is_new |= bit & !*seen != 0;
            *seen |= bit;
        }
        is_new
    }

    /// How many branches were taken.
    pub fn count(&self) -> usize {
        self.0.iter().filter(|seen| **seen != 0).count()
    }
}

#[cfg(not(fuzz_coverage))]
mod counters {
    use std::sync::atomic::AtomicU8;

    pub fn all() -> &'static [AtomicU8] {
        &[]
    }
}

#[cfg(fuzz_coverage)]
#[expect(
    unsafe_code,
    reason = "the instrumentation tells where its counters are"
)]
mod counters {
    use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

    static START: AtomicPtr<AtomicU8> = AtomicPtr::new(std::ptr::null_mut());
    static LENGTH: AtomicUsize = AtomicUsize::new(0);

    /// Called by each instrumented object before main, always with the whole section of the program.
    // SAFETY: the name is reserved for this use (LLVM's SanitizerCoverage.rst), and nobody else defines it.
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
        START.store(start.cast(), Ordering::SeqCst);
        LENGTH.store(stop as usize - start as usize, Ordering::SeqCst);
    }

    pub fn all() -> &'static [AtomicU8] {
        let start = START.load(Ordering::SeqCst);
        if start.is_null() {
            return &[];
        }
        // SAFETY: the section lives as long as the program; what is not atomic in it are plain increments, of which one that is
        // lost does no harm.
        unsafe { std::slice::from_raw_parts(start, LENGTH.load(Ordering::SeqCst)) }
    }
}
