//! The requests of `ioctl` that a machine makes once it exists, for the list of system calls of a jailed monitor. Creating
//! a machine is not among them.

use std::mem::size_of;

use kvm_bindings::{
    kvm_cpuid2, kvm_device_attr, kvm_msrs, kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

/// `KVMIO` of `linux/kvm.h`.
const KVM: u64 = 0xae;

/// `_IOC` of `asm-generic/ioctl.h`.
const fn request(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | KVM << 8 | number
}

const fn plain(number: u64) -> u64 {
    request(0, number, 0)
}

const fn write<T>(number: u64) -> u64 {
    request(1, number, size_of::<T>())
}

const fn read<T>(number: u64) -> u64 {
    request(2, number, size_of::<T>())
}

/// `KVM_RUN` first: the order is that in which a filter compares.
pub const REQUESTS: [u64; 17] = [
    plain(0x80),
    // KVM_SET_USER_MEMORY_REGION: memory grows on demand.
    write::<kvm_userspace_memory_region>(0x46),
    // KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS
    read::<kvm_vcpu_events>(0x9f),
    write::<kvm_vcpu_events>(0xa0),
    // KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_SET_XSAVE
    read::<kvm_xsave>(0xa4),
    read::<kvm_xsave>(0xcf),
    write::<kvm_xsave>(0xa5),
    // KVM_GET_SREGS, KVM_SET_SREGS
    read::<kvm_sregs>(0x83),
    write::<kvm_sregs>(0x84),
    // KVM_CREATE_VCPU, KVM_GET_VCPU_MMAP_SIZE, KVM_CHECK_EXTENSION
    plain(0x41),
    plain(0x04),
    plain(0x03),
    // KVM_SET_CPUID2, KVM_SET_MSRS, KVM_SET_XCRS
    write::<kvm_cpuid2>(0x90),
    write::<kvm_msrs>(0x89),
    write::<kvm_xcrs>(0xa7),
    // KVM_SET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR: the guest's time-stamp counter.
    write::<kvm_device_attr>(0xe1),
    write::<kvm_device_attr>(0xe3),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel_headers() {
        // As `linux/kvm.h` of 6.x gives them for x86-64.
        for number in [0xae80, 0x4020_ae46, 0x8040_ae9f, 0x9000_aea4, 0x8138_ae83, 0x4018_aee1] {
            assert!(REQUESTS.contains(&number), "{number:#x}");
        }
        const KVM_CREATE_VM: u64 = 0xae01;
        assert!(!REQUESTS.contains(&KVM_CREATE_VM));
    }
}
