//! The machine: what belongs to one VM and outlives its parts.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use calypte_platform::{AddressSpace, Machine, Memory, PlatformError, Timestamp, Vcpu, timestamp};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_xsave};
use kvm_ioctls::{Cap, Kvm, VmFd};

use crate::arena::{TABLES_MAX, TableArena};
use crate::layout::{SYSTEM_END, TABLE_SLOT, USER_END, VCPUS_MAX};
use crate::mapping::{host_error, ioctl_error};
use crate::memory::Frames;
use crate::probe::open_device;
use crate::quiesce::VcpuSet;
use crate::space::KvmAddressSpace;
use crate::system_pages::SystemPages;
use crate::vcpu::KvmVcpu;

/// Page tables a machine may use besides those in proportion to its memory: several processes with sparse mappings.
const TABLES_BASE_COUNT: u32 = 2048;
/// Frames for which one more page table is allowed. A table maps up to 512 frames; sparse mappings need more.
const FRAMES_PER_TABLE: u32 = 32;

/// How large a machine may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Most frames it may have.
    pub memory_frames_max: u32,
    /// Most page tables (of 4 KiB each) that its address spaces may use together. `None`: in proportion to the frames.
    pub tables_max: Option<u32>,
}

impl Config {
    /// A machine of at most `memory_frames_max` frames.
    pub fn new(memory_frames_max: u32) -> Self {
        Self { memory_frames_max, tables_max: None }
    }

    fn tables_max(&self) -> u32 {
        let proportional = TABLES_BASE_COUNT + self.memory_frames_max / FRAMES_PER_TABLE;
        self.tables_max.unwrap_or(proportional).min(TABLES_MAX)
    }
}

/// What the host's processors and KVM offer to every virtual CPU.
#[derive(Debug)]
pub(crate) struct Features {
    /// The CPUID leaves the guest sees.
    pub(crate) cpuid: CpuId,
    /// Register sets the guest may use (`XCR0`).
    pub(crate) xcr0: u64,
    /// Instructions that read and write segment bases.
    pub(crate) has_fsgsbase: bool,
    /// Bytes of the floating-point and vector state.
    pub(crate) xsave_bytes: usize,
    /// `KVM_GET_XSAVE2` exists.
    pub(crate) has_xsave2: bool,
}

/// A [`Machine`] on KVM.
#[derive(Debug)]
pub(crate) struct KvmMachine {
    pub(crate) vm: Arc<VmFd>,
    pub(crate) features: Features,
    pub(crate) system: SystemPages,
    pub(crate) frames: Arc<Frames>,
    pub(crate) vcpus: Arc<VcpuSet>,
    arena: Arc<TableArena>,
    vcpu_count: AtomicU32,
}

/// A handle through which parts of a machine keep all of it alive.
#[derive(Debug)]
struct MachineHandle(Arc<KvmMachine>);

/// A machine without frames, address spaces or virtual CPUs.
pub fn create_machine(config: &Config) -> Result<Arc<dyn Machine>, PlatformError> {
    timestamp::start_measuring();
    let kvm = open_device().map_err(|error| host_error("open /dev/kvm", io::Error::other(error)))?;
    let vm = Arc::new(kvm.create_vm().map_err(ioctl_error("KVM_CREATE_VM"))?);
    let table_slots = kvm.get_nr_memslots() as u32 - TABLE_SLOT;
    let machine = KvmMachine {
        features: features(&kvm, &vm)?,
        system: SystemPages::new(&vm)?,
        frames: Arc::new(Frames::new(Arc::clone(&vm), config.memory_frames_max)?),
        vcpus: Arc::default(),
        arena: Arc::new(TableArena::new(Arc::clone(&vm), config.tables_max(), table_slots)?),
        vcpu_count: AtomicU32::new(0),
        vm,
    };
    Ok(Arc::new(MachineHandle(Arc::new(machine))))
}

fn features(kvm: &Kvm, vm: &VmFd) -> Result<Features, PlatformError> {
    /// x87, SSE, AVX and the three parts of AVX-512. Others (AMX) need permissions of the process.
    const XCR0_OFFERED: u64 = 0xe7;
    const AVX512: u64 = 0xe0;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(ioctl_error("KVM_GET_SUPPORTED_CPUID"))?;
    let leaf = |function: u32| cpuid.as_slice().iter().find(|leaf| leaf.function == function && leaf.index == 0);
    let mut xcr0 = leaf(0xd).map_or(3, |leaf| u64::from(leaf.eax) | u64::from(leaf.edx) << 32) & XCR0_OFFERED;
    if xcr0 & AVX512 != AVX512 {
        xcr0 &= !AVX512;
    }
    let has_fsgsbase = leaf(7).is_some_and(|leaf| leaf.ebx & 1 != 0);
    let xsave2_bytes = usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
    Ok(Features {
        xcr0,
        has_fsgsbase,
        xsave_bytes: xsave2_bytes.max(size_of::<kvm_xsave>()),
        has_xsave2: xsave2_bytes > 0,
        cpuid,
    })
}

impl Machine for MachineHandle {
    fn platform(&self) -> &'static str {
        "kvm"
    }

    fn memory(&self) -> Arc<dyn Memory> {
        Arc::clone(&self.0.frames) as Arc<dyn Memory>
    }

    fn create_address_space(&self) -> Result<Box<dyn AddressSpace>, PlatformError> {
        let KvmMachine { arena, frames, vcpus, .. } = &*self.0;
        Ok(Box::new(KvmAddressSpace::new(Arc::clone(arena), Arc::clone(frames), Arc::clone(vcpus))?))
    }

    fn create_vcpu(&self) -> Result<Box<dyn Vcpu>, PlatformError> {
        // A number is used up even when creation fails: KVM does not take one twice.
        let index = self.0.vcpu_count.fetch_add(1, Ordering::Relaxed);
        if index >= VCPUS_MAX {
            let source = io::Error::other(format!("a machine has at most {VCPUS_MAX} virtual CPUs"));
            return Err(host_error("creation of a virtual CPU", source));
        }
        Ok(Box::new(KvmVcpu::new(Arc::clone(&self.0), index)?))
    }

    fn reserved(&self) -> Range<u64> {
        0..SYSTEM_END
    }

    fn user_end(&self) -> u64 {
        USER_END
    }

    fn synchronize(&self) -> bool {
        self.0.vcpus.interrupt_and_wait();
        true
    }

    fn timestamp(&self) -> Option<Timestamp> {
        timestamp::read()
    }
}
