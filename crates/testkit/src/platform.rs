//! What the platform contract promises, checked with small guest programs: one suite for every implementation.
//!
//! A crate that implements the contract has a test target with [`platform_tests`](crate::platform_tests) in it. Where the
//! host lacks what the platform needs, every test prints `SKIP name: reason` and passes.

#![allow(clippy::print_stderr, reason = "skips and seeds are for the reader of the test's output")]

pub mod boundary;
pub mod exceptions;
pub mod frames;
pub mod guest;
pub mod kicks;
pub mod mappings;
pub mod state;
pub mod system_calls;
pub mod vcpus;

use std::sync::Arc;

use calypte_platform::{Machine, PlatformError};

/// An implementation of the contract.
pub struct Platform {
    /// Makes a machine of at most so many frames.
    pub create: fn(u32) -> Result<Arc<dyn Machine>, PlatformError>,
    /// Why there can be none on this host.
    pub missing: Option<String>,
}

impl Platform {
    /// A machine of at most `frames_max` frames for a test. None, with a message, where the platform is missing.
    pub fn machine(&self, test: &str, frames_max: u32) -> Option<Arc<dyn Machine>> {
        if let Some(reason) = &self.missing {
            eprintln!("SKIP {test}: {reason}");
            return None;
        }
        Some((self.create)(frames_max).expect("the platform is there"))
    }
}

/// Defines a test for each one of the suite; `$platform` is an expression that gives a [`Platform`].
#[macro_export]
macro_rules! platform_tests {
    ($platform:expr) => {
        $crate::platform_tests! {
            @list $platform;
            boundary::privileged_instructions_are_refused,
            boundary::every_port_is_refused_in_every_width,
            boundary::whatever_bytes_it_runs_the_guest_only_harms_itself,
            exceptions::exceptions_report_vector_and_address,
            exceptions::an_address_that_is_not_canonical_is_a_protection_fault,
            exceptions::the_trap_flag_steps_through_a_program,
            exceptions::page_faults_report_address_and_access,
            exceptions::a_faulting_instruction_runs_again_once_its_page_is_there,
            frames::frames_are_zero_until_written_and_after_discarding,
            frames::frames_have_the_pages_of_a_file_until_they_are_written,
            frames::words_are_read_and_exchanged_whole,
            frames::growth_ends_at_the_maximum,
            frames::accesses_outside_backed_frames_are_caught,
            kicks::a_kick_ends_a_spinning_guest,
            kicks::a_kick_before_the_run_ends_it_before_it_begins,
            kicks::a_kick_is_never_lost_however_it_meets_the_run,
            kicks::kicks_disturb_no_event,
            kicks::a_preempted_thread_goes_on_where_it_was,
            kicks::a_kick_of_a_virtual_cpu_that_is_gone_does_nothing,
            mappings::a_removed_mapping_is_gone_at_once,
            mappings::a_page_made_read_only_refuses_writes_at_once,
            mappings::a_page_made_writable_accepts_writes_at_once,
            mappings::a_page_without_access_keeps_its_content,
            mappings::another_frame_at_the_same_address_is_seen_at_once,
            mappings::a_page_made_non_executable_refuses_fetches_at_once,
            mappings::ranges_across_tables_are_mapped_and_removed_whole,
            mappings::address_spaces_are_separate,
            mappings::a_mapping_disappears_under_a_running_virtual_cpu,
            mappings::flushes_do_not_disturb_a_running_virtual_cpu,
            state::segment_bases_are_those_of_the_registers,
            state::bases_written_by_user_code_are_seen_and_kept,
            state::vector_state_belongs_to_the_thread,
            state::the_upper_halves_of_vectors_are_kept,
            state::state_of_another_size_is_refused,
            state::the_time_stamp_counter_is_the_hosts,
            system_calls::registers_pass_through_a_system_call_both_ways,
            system_calls::a_loop_of_system_calls_resumes_each_time,
            system_calls::flags_survive_a_system_call_although_the_stub_runs_without_some,
            system_calls::a_thread_moves_between_virtual_cpus,
            vcpus::virtual_cpus_share_memory_with_atomic_access,
            vcpus::each_virtual_cpu_reports_its_own_faults,
        }
    };
    (@list $platform:expr; $($module:ident::$test:ident),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                $crate::platform::$module::$test(&$platform);
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    /// A test that the list lacks would never run.
    #[test]
    fn every_test_is_in_the_list() {
        let list = include_str!("platform.rs");
        let modules = [
            ("boundary", include_str!("platform/boundary.rs")),
            ("exceptions", include_str!("platform/exceptions.rs")),
            ("frames", include_str!("platform/frames.rs")),
            ("kicks", include_str!("platform/kicks.rs")),
            ("mappings", include_str!("platform/mappings.rs")),
            ("state", include_str!("platform/state.rs")),
            ("system_calls", include_str!("platform/system_calls.rs")),
            ("vcpus", include_str!("platform/vcpus.rs")),
        ];
        for (module, source) in modules {
            let tests =
                source.lines().filter_map(|line| line.strip_prefix("pub fn ")?.strip_suffix("(platform: &Platform) {"));
            let mut count = 0;
            for test in tests {
                assert!(list.contains(&format!("            {module}::{test},\n")), "{module}::{test}");
                count += 1;
            }
            assert!(count > 0, "{module}");
        }
    }
}
