//! What the device tree says, noted before the heap takes the memory that it lies in.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use flat_device_tree::Fdt;
use kernel_core::{BootInfo, MAX_CPUS};

/// How many virtio devices are looked at.
const MAX_DEVICES: usize = 16;

static HARTS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
static TIME_HZ: AtomicU64 = AtomicU64::new(1);
static SERIAL: AtomicUsize = AtomicUsize::new(0);
static FINISHER: AtomicUsize = AtomicUsize::new(0);
static DEVICES: [AtomicUsize; MAX_DEVICES] = [const { AtomicUsize::new(0) }; MAX_DEVICES];

/// The hart of CPU `index`.
pub fn hart(index: usize) -> usize {
    HARTS[index].load(Ordering::Relaxed)
}

/// Counts of the time register a second.
pub fn time_hz() -> u64 {
    TIME_HZ.load(Ordering::Relaxed)
}

/// The serial port's registers.
pub fn serial() -> usize {
    SERIAL.load(Ordering::Relaxed)
}

/// The register that ends the emulation with an exit code, or 0.
pub fn finisher() -> usize {
    FINISHER.load(Ordering::Relaxed)
}

/// The registers of virtio devices.
pub fn devices() -> impl Iterator<Item = usize> {
    DEVICES.iter().map(|device| device.load(Ordering::Relaxed)).filter(|base| *base != 0)
}

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// Reads the tree at `address`; `boot_hart` runs this.
///
/// # Safety
/// - The device tree is there.
pub unsafe fn read(boot_hart: usize, address: usize) -> BootInfo {
    // SAFETY: the same condition.
    let tree = match unsafe { Fdt::from_ptr(core::ptr::with_exposed_provenance(address)) } {
        Ok(tree) => tree,
        Err(error) => panic!("no device tree: {error:?}"),
    };
    let first_reg = |kind: &str| {
        let region = tree.find_compatible(&[kind]).and_then(|node| node.reg().next());
        region.map_or(0, |region| region.starting_address.expose_provenance())
    };
    SERIAL.store(first_reg("ns16550a"), Ordering::Relaxed);
    FINISHER.store(first_reg("sifive,test0"), Ordering::Relaxed);

    let mut boot = BootInfo::new();
    if let Ok(memory) = tree.memory() {
        for region in memory.regions() {
            boot.add_memory(region.starting_address.expose_provenance(), region.size.unwrap_or(0));
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

    HARTS[0].store(boot_hart, Ordering::Relaxed);
    let mut count = 1;
    for cpu in tree.cpus() {
        if let Ok(hz) = cpu.timebase_frequency() {
            TIME_HZ.store(hz as u64, Ordering::Relaxed);
        }
        let hart = cpu.ids().and_then(|ids| ids.first()).unwrap_or(boot_hart);
        if hart != boot_hart && count < MAX_CPUS {
            HARTS[count].store(hart, Ordering::Relaxed);
            count += 1;
        }
    }
    boot.cpu_count = count;
    let devices = tree.all_nodes().filter(|node| {
        node.compatible().is_some_and(|kinds| kinds.all().any(|kind| kind == "virtio,mmio"))
    });
    for (place, device) in DEVICES.iter().zip(devices.filter_map(|node| node.reg().next())) {
        place.store(device.starting_address.expose_provenance(), Ordering::Relaxed);
    }
    boot
}
