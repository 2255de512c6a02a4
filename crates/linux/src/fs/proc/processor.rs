//! The host's processor, as far as `/proc/cpuinfo` tells programs about it.

use std::sync::OnceLock;

use std::fmt::Write as _;

/// What the host's `/proc/cpuinfo` says that holds in the guest too.
const FIELDS: [&str; 8] =
    ["vendor_id", "cpu family", "model", "model name", "stepping", "cpu MHz", "cache size", "bogomips"];

/// Features that user programs may use and that guests have if the processor has them: nothing beyond AVX2, since larger
/// registers are not enabled on every platform.
const FEATURES: &str = "fpu tsc cx8 cmov mmx fxsr sse sse2 ht syscall nx rdtscp lm constant_tsc nopl pni pclmulqdq ssse3 \
    fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand hypervisor lahf_lm abm bmi1 avx2 bmi2 erms rdseed adx \
    clflushopt sha_ni vaes vpclmulqdq gfni";

/// Features that every processor of this architecture has.
const FEATURES_ALWAYS: &str = "fpu tsc cx8 cmov mmx fxsr sse sse2 syscall nx lm";

/// A description of one processor, without what differs between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Processor {
    fields: Vec<(&'static str, String)>,
    features: String,
}

impl Processor {
    /// That of the host. A host that does not tell has a nameless one.
    pub(crate) fn of_host() -> Self {
        static HOST: OnceLock<Processor> = OnceLock::new();
        HOST.get_or_init(|| Self::parse(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())).clone()
    }

    fn parse(text: &str) -> Self {
        let first = text.split("\n\n").next().unwrap_or_default();
        let value = |name: &str| {
            let mut lines = first.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| key.trim_end() == name).map(|(_, value)| value.trim().to_owned())
        };
        let fields = FIELDS.into_iter().filter_map(|name| Some((name, value(name)?))).collect();
        let flags = value("flags").unwrap_or_else(|| FEATURES_ALWAYS.to_owned());
        let known: Vec<&str> = FEATURES.split_whitespace().collect();
        let features: Vec<&str> = flags.split_whitespace().filter(|flag| known.contains(flag)).collect();
        Self { fields, features: features.join(" ") }
    }

    /// The section of `/proc/cpuinfo` about one of `count` processors.
    pub(crate) fn section(&self, index: u32, count: u32) -> String {
        let mut section = format!("processor\t: {index}\n");
        for (name, value) in &self.fields {
            let _ = writeln!(section, "{name}{}: {value}", if name.len() < 8 { "\t\t" } else { "\t" });
        }
        let _ = write!(
            section,
            "physical id\t: 0\nsiblings\t: {count}\ncore id\t\t: {index}\ncpu cores\t: {count}\nfpu\t\t: yes\n\
             flags\t\t: {}\nclflush size\t: 64\ncache_alignment\t: 64\n\n",
            self.features
        );
        section
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_a_guest_may_not_have_are_left_out() {
        let host = "processor\t: 0\nvendor_id\t: Vendor\nmodel\t\t: 85\nmodel name\t: A Name\nflags\t\t: fpu avx2 \
                    avx512f amx_tile vmx sse2\n\nprocessor\t: 1\nmodel name\t: Another\n";
        let section = Processor::parse(host).section(1, 2);
        assert!(
            section.starts_with("processor\t: 1\nvendor_id\t: Vendor\nmodel\t\t: 85\nmodel name\t: A Name\n"),
            "{section}"
        );
        assert!(section.contains("flags\t\t: fpu avx2 sse2\n"), "{section}");
        assert!(Processor::parse("").section(0, 1).contains("sse2"));
    }
}
