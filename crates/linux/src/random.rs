//! Randomness for guests.

/// Fills a buffer from the host's generator, which never fails once it is seeded.
pub fn fill(buffer: &mut [u8]) {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::rand::getrandom(&mut buffer[done..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => done += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the host's random number generator failed: {error}"),
        }
    }
}
