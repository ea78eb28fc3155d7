//! The gateway's memory allocator, jemalloc, with the setting that it needs (docs/adr/0012).
//!
//! lapin gives each connection two zeroed buffers of 4 MiB. With `oversize_threshold` at 3 MiB, jemalloc returns memory
//! of that size to the system at once, so that new buffers need no zeroing; otherwise the memory is reused and zeroed,
//! and an idle subscription needs 102 KiB instead of 34.
//!
//! This is a crate of its own because it needs unsafe code, which the gateway forbids: a symbol that jemalloc reads
//! when the process starts, and a call that reads the setting in effect.
#![cfg(unix)]

use std::{ffi::c_char, mem::size_of, ptr};

/// The global allocator of the binary.
pub type Allocator = tikv_jemallocator::Jemalloc;

/// The [`Allocator`].
pub const ALLOCATOR: Allocator = tikv_jemallocator::Jemalloc;

/// The size from which memory is returned to the system at once.
const OVERSIZE_THRESHOLD: usize = 3 << 20;

/// A C string behind a thin pointer.
#[repr(transparent)]
pub struct Settings(*const c_char);

// SAFETY: the pointer is to a constant, and nothing writes through it.
unsafe impl Sync for Settings {}

/// jemalloc's settings, read by it before `main`. The environment variable `_RJEM_MALLOC_CONF` overrides them.
// SAFETY: jemalloc declares this symbol as `const char *`, which is how it is laid out here, and no other crate defines
// it.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static SETTINGS: Settings = Settings(c"oversize_threshold:3145728".as_ptr());

/// Checks that the settings are in effect.
///
/// # Errors
/// The consequence, when they are not.
pub fn check() -> Result<(), String> {
    // Keeps the symbol in the binary.
    std::hint::black_box(&SETTINGS);
    let (mut value, mut size) = (0_usize, size_of::<usize>());
    // SAFETY: the name is a C string, `value` has the size that is given, and the setting is only read.
    let failed = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"opt.oversize_threshold".as_ptr(),
            (&raw mut value).cast(),
            &raw mut size,
            ptr::null_mut(),
            0,
        )
    };
    match (failed, value) {
        (0, OVERSIZE_THRESHOLD) => Ok(()),
        (0, other) => Err(format!(
            "jemalloc's oversize_threshold is {other} instead of {OVERSIZE_THRESHOLD}: idle subscriptions need up to \
             three times the memory"
        )),
        (code, _) => Err(format!("cannot read the oversize_threshold of jemalloc (error {code})")),
    }
}

#[cfg(test)]
mod tests {
    #[global_allocator]
    static ALLOCATOR: super::Allocator = super::ALLOCATOR;

    #[test]
    fn the_settings_are_in_effect() {
        assert_eq!(super::check(), Ok(()));
    }
}
