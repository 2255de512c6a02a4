//! Segment bases that the host's kernel gives no program of its own.

use calypte_platform::Exit;
use calypte_testkit::program;

use crate::guest::guest;

program!(call: "syscall");

#[test]
fn segment_bases_may_be_in_the_upper_half() {
    let Some(mut guest) = guest("segment_bases_may_be_in_the_upper_half", call()) else { return };
    guest.registers.gs_base = 0xffff_8000_0000_0000;
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!(guest.registers.gs_base, 0xffff_8000_0000_0000);
}
