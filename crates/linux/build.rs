//! Compiles the guest's vDSO, which `src/vdso.rs` includes. It runs in guests, so it depends on neither the target of this
//! crate nor a C library: any C compiler for x86-64 will do.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=vdso");
    println!("cargo::rerun-if-env-changed=CC");
    let output = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("vdso.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler)
        .args(["-O2", "-std=gnu11", "-Wall", "-Werror", "-fPIC", "-fno-stack-protector", "-fcf-protection=none"])
        .args(["-fno-builtin", "-mno-red-zone", "-nostdlib", "-shared", "-Wl,-soname,linux-vdso.so.1"])
        .args(["-Wl,--hash-style=both", "-Wl,--build-id=none", "-Wl,--eh-frame-hdr", "-Wl,-z,noexecstack"])
        .args(["-Wl,-z,max-page-size=4096", "-Wl,-T,vdso/vdso.ld", "vdso/vdso.c", "-o"])
        .arg(&output)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{compiler:?} could not compile vdso/vdso.c ({status})"),
        Err(error) => panic!("{compiler:?} cannot be run ({error}); install a C compiler or set CC"),
    }
}
