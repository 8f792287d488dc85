//! How the C library's allocator keeps what is free.

/// Has small pieces that are freed joined with their free neighbours at once.
///
/// glibc keeps those of up to 128 bytes apart, for the next one who wants just as much. The runtime's records of sockets
/// and tasks begin at multiples of 128 bytes (`posix_memalign`), and what glibc cuts off before and behind them are such
/// pieces: two for each record, which nobody wants. Joined, they are room for the next record. Each thread still keeps
/// seven pieces of a size at hand.
///
/// Of no effect with other C libraries, or if glibc does not take it.
pub(super) fn joins_small_pieces() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the C library's settings have no safe call")]
    // SAFETY: mallopt takes two numbers by value, and its own lock
    unsafe {
        libc::mallopt(libc::M_MXFAST, 0);
    }
}
