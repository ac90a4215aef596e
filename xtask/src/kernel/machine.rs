//! What differs between the architectures: target, emulator, its arguments, its exit code.

use anyhow::{Result, bail};

/// One architecture's machine under QEMU.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    /// As it is named on the command line.
    pub name: &'static str,
    /// The package in `kernel/`.
    pub package: &'static str,
    /// Its bare-metal target.
    pub target: &'static str,
    /// The emulator.
    pub qemu: &'static str,
    /// The Debian package that has it.
    pub debian_package: &'static str,
    /// Arguments of every boot.
    pub arguments: &'static [&'static str],
    /// Memory unless another is asked for.
    pub memory: Option<&'static str>,
    /// The most CPUs.
    pub max_cpus: usize,
    /// How the disk is attached, if there is one.
    pub disk: Option<&'static str>,
    /// The emulator's exit code of a run that passed.
    pub success: i32,
}

/// The machines.
pub static MACHINES: &[Machine] = &[
    Machine {
        name: "x86_64",
        package: "kernel-x86_64",
        target: "x86_64-unknown-none",
        qemu: "qemu-system-x86_64",
        debian_package: "qemu-system-x86",
        arguments: &[
            "-machine",
            "q35",
            "-cpu",
            "max",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=4",
        ],
        memory: Some("128M"),
        max_cpus: 64,
        disk: Some("virtio-blk-pci,drive=disk"),
        success: 33,
    },
    Machine {
        name: "riscv64",
        package: "kernel-riscv64",
        target: "riscv64gc-unknown-none-elf",
        qemu: "qemu-system-riscv64",
        debian_package: "qemu-system-misc",
        arguments: &["-machine", "virt", "-global", "virtio-mmio.force-legacy=false"],
        memory: Some("128M"),
        max_cpus: 8,
        disk: Some("virtio-blk-device,drive=disk"),
        success: 0,
    },
    Machine {
        name: "aarch64",
        package: "kernel-aarch64",
        target: "aarch64-unknown-none",
        qemu: "qemu-system-aarch64",
        debian_package: "qemu-system-arm",
        arguments: &[
            "-machine",
            "virt,gic-version=3",
            "-cpu",
            "cortex-a72",
            "-semihosting",
            "-global",
            "virtio-mmio.force-legacy=false",
        ],
        memory: Some("128M"),
        max_cpus: 64,
        disk: Some("virtio-blk-device,drive=disk"),
        success: 0,
    },
    Machine {
        name: "cortex-m",
        package: "kernel-cortex-m",
        target: "thumbv7em-none-eabihf",
        qemu: "qemu-system-arm",
        debian_package: "qemu-system-arm",
        arguments: &["-machine", "mps2-an386", "-semihosting-config", "enable=on,target=native"],
        memory: None,
        max_cpus: 1,
        disk: None,
        success: 0,
    },
];

impl Machine {
    /// The machine of that name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn named(name: &str) -> Result<&'static Self> {
        match MACHINES.iter().find(|machine| machine.name == name) {
            Some(machine) => Ok(machine),
            None => {
                let names: Vec<_> = MACHINES.iter().map(|machine| machine.name).collect();
                bail!("no machine `{name}`: there are {}", names.join(", "))
            }
        }
    }
}
