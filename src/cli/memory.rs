//! A setting of the C library's memory allocator.

/// Turns off glibc's fastbins, so that a small freed block is merged with its free neighbours at once.
///
/// With fastbins, glibc keeps freed blocks of up to 128 bytes unmerged, for the next allocation of the same size.
/// tokio's records of sockets and tasks begin at multiples of 128 bytes (`posix_memalign`), and glibc cuts off such
/// small blocks before and after them: two for each record, which are never used again. Merged, they are memory for the
/// next record. Each thread's cache (tcache) still keeps seven blocks of each size.
///
/// Has no effect with other C libraries, or if glibc ignores the setting.
pub(super) fn disable_fastbins() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "there is no safe function for this setting of the C library")]
    // SAFETY: mallopt takes two integers by value, and takes the allocator's lock itself
    unsafe {
        libc::mallopt(libc::M_MXFAST, 0);
    }
}
