//! What the device tree says, noted before the heap takes the memory that it lies in.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use flat_device_tree::Fdt;
use kernel_core::{BootInfo, MAX_CPUS};

use crate::{interrupts, paging};

/// How many virtio devices are looked at.
const MAX_DEVICES: usize = 32;

static CPUS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static CPU_COUNT: AtomicUsize = AtomicUsize::new(1);
static SERIAL: AtomicUsize = AtomicUsize::new(0);
/// The interrupt controller's distributor and redistributors.
static CONTROLLER: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
static DEVICES: [AtomicUsize; MAX_DEVICES] = [const { AtomicUsize::new(0) }; MAX_DEVICES];

/// The affinity of CPU `index`.
pub fn affinity(index: usize) -> u64 {
    CPUS[index].load(Ordering::Relaxed)
}

/// How many CPUs there are.
pub fn cpu_count() -> usize {
    CPU_COUNT.load(Ordering::Relaxed)
}

/// The serial port's registers.
pub fn serial() -> usize {
    SERIAL.load(Ordering::Relaxed)
}

/// The registers of the interrupt controller: distributor and redistributors; 0 if there is none.
pub fn controller() -> (usize, usize) {
    (CONTROLLER[0].load(Ordering::Relaxed), CONTROLLER[1].load(Ordering::Relaxed))
}

/// The registers of virtio devices.
pub fn devices() -> impl Iterator<Item = usize> {
    DEVICES.iter().map(|device| device.load(Ordering::Relaxed)).filter(|base| *base != 0)
}

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// Reads the tree at `address`; the boot CPU runs this.
///
/// # Safety
/// - The device tree is there.
pub unsafe fn read(address: usize) -> BootInfo {
    // SAFETY: the same condition.
    let tree = match unsafe { Fdt::from_ptr(core::ptr::with_exposed_provenance(address)) } {
        Ok(tree) => tree,
        Err(error) => panic!("no device tree: {error:?}"),
    };
    let regions = |kind: &'static str| {
        tree.find_compatible(&[kind])
            .into_iter()
            .flat_map(|node| node.reg())
            .map(|region| region.starting_address.expose_provenance())
    };
    SERIAL.store(regions("arm,pl011").next().unwrap_or(0), Ordering::Relaxed);
    for (place, base) in CONTROLLER.iter().zip(regions("arm,gic-v3")) {
        place.store(base, Ordering::Relaxed);
    }

    let mut boot = BootInfo::new();
    if let Ok(memory) = tree.memory() {
        for region in memory.regions() {
            let base = region.starting_address.expose_provenance();
            let end = (base + region.size.unwrap_or(0)).min(paging::MAPPED_END);
            boot.add_memory(base, end.saturating_sub(base));
        }
    }
    if let Some(reserved) = tree.find_node("/reserved-memory") {
        for region in reserved.children().flat_map(|node| node.reg()) {
            boot.reserve(region.starting_address.expose_provenance(), region.size.unwrap_or(0));
        }
    }
    let (start, end) = (&raw const image_start, &raw const image_end);
    boot.reserve(start.expose_provenance(), end.addr() - start.addr());
    if let Ok(chosen) = tree.chosen()
        && let Some(line) = chosen.bootargs()
    {
        boot.set_command_line(line.as_bytes());
    }

    let boot_cpu = interrupts::affinity();
    CPUS[0].store(boot_cpu, Ordering::Relaxed);
    let mut count = 1;
    for cpu in tree.cpus() {
        let cpu = cpu.ids().and_then(|ids| ids.first()).map_or(boot_cpu, |cpu| cpu as u64);
        if cpu != boot_cpu && count < MAX_CPUS {
            CPUS[count].store(cpu, Ordering::Relaxed);
            count += 1;
        }
    }
    CPU_COUNT.store(count, Ordering::Relaxed);
    boot.cpu_count = count;
    if count > 1 {
        // Under a hypervisor, or on a machine without EL2; calls by SMC would want another conduit.
        let psci = tree.find_compatible(&["arm,psci-1.0", "arm,psci-0.2"]);
        let method = psci.and_then(|node| node.property("method")?.as_str());
        assert!(method == Some("hvc"), "CPUs are not started by HVC, but by {method:?}");
    }
    let devices = tree.all_nodes().filter(|node| {
        node.compatible().is_some_and(|kinds| kinds.all().any(|kind| kind == "virtio,mmio"))
    });
    for (place, device) in DEVICES.iter().zip(devices.filter_map(|node| node.reg().next())) {
        place.store(device.starting_address.expose_provenance(), Ordering::Relaxed);
    }
    boot
}
