//! What the loader and ACPI say: memory, command line, CPUs.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::Mcfg;
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use kernel_core::{BootInfo, MAX_CPUS};

/// `hvm_start_info` of the PVH boot protocol.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_len: u32,
    reserved: u32,
}

const START_MAGIC: u32 = 0x336E_C578;

/// One range of its memory map.
#[repr(C)]
struct MapEntry {
    base: u64,
    len_bytes: u64,
    kind: u32,
    reserved: u32,
}

const USABLE: u32 = 1;
/// The boot page tables reach memory below this; devices follow.
const REACH: u64 = 0xB000_0000;

/// Identifiers of the CPUs' local APICs, by index.
static APIC_IDS: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];
/// Where PCI's configuration space begins, or 0.
static PCI_CONFIGURATION: AtomicUsize = AtomicUsize::new(0);

/// The local APIC of CPU `index`.
pub fn apic_id(index: usize) -> u8 {
    APIC_IDS[index].load(Ordering::Relaxed)
}

/// Where PCI's configuration space begins.
pub fn pci_configuration() -> Option<usize> {
    Some(PCI_CONFIGURATION.load(Ordering::Relaxed)).filter(|base| *base != 0)
}

/// Memory is where it is.
#[derive(Clone)]
struct Identity;

impl AcpiHandler for Identity {
    unsafe fn map_physical_region<T>(&self, addr: usize, size: usize) -> PhysicalMapping<Self, T> {
        let Some(virt) = NonNull::new(ptr::with_exposed_provenance_mut(addr)) else {
            panic!("ACPI points to address 0");
        };
        // SAFETY: all memory below 4 GiB is mapped where it is.
        unsafe { PhysicalMapping::new(addr, virt, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// Reads what the loader left at `start_info`, and the ACPI tables.
///
/// # Safety
/// - `start_info` is what the loader passed.
pub unsafe fn read(start_info: usize) -> BootInfo {
    let mut boot = BootInfo::new();
    // SAFETY: the loader's structure (condition).
    let info = unsafe { &*ptr::with_exposed_provenance::<StartInfo>(start_info) };
    assert!(info.magic == START_MAGIC, "not booted by PVH: {:#x}", info.magic);
    for i in 0..info.memory_map_len as usize {
        let entry = ptr::with_exposed_provenance::<MapEntry>(info.memory_map as usize);
        // SAFETY: the loader's array has that many.
        let entry = unsafe { &*entry.add(i) };
        let end = (entry.base + entry.len_bytes).min(REACH);
        if entry.kind == USABLE && entry.base < end {
            boot.add_memory(entry.base as usize, (end - entry.base) as usize);
        }
    }
    // Interrupt vectors, firmware's data, and the start of other CPUs.
    boot.reserve(0, 0x10000);
    let (start, end) = (&raw const image_start, &raw const image_end);
    boot.reserve(start.expose_provenance(), end.addr() - start.addr());
    if info.command_line != 0 {
        // SAFETY: a C string of the loader.
        let line = unsafe {
            core::ffi::CStr::from_ptr(ptr::with_exposed_provenance(info.command_line as usize))
        };
        boot.set_command_line(line.to_bytes());
    }
    // SAFETY: firmware's table.
    match unsafe { AcpiTables::from_rsdp(Identity, info.rsdp as usize) } {
        Ok(tables) => boot.cpu_count = read_acpi(&tables),
        Err(error) => panic!("no ACPI tables: {error:?}"),
    }
    boot
}

/// Notes the CPUs, this one first, and PCI's configuration space; returns how many CPUs there are.
fn read_acpi(tables: &AcpiTables<Identity>) -> usize {
    let here = crate::apic::id();
    APIC_IDS[0].store(here, Ordering::Relaxed);
    let mut count = 1;
    match tables.find_table::<Madt>() {
        Ok(madt) => {
            for entry in madt.get().entries() {
                if let MadtEntry::LocalApic(cpu) = entry
                    && { cpu.flags } & 1 != 0
                    && cpu.apic_id != here
                    && count < MAX_CPUS
                {
                    APIC_IDS[count].store(cpu.apic_id, Ordering::Relaxed);
                    count += 1;
                }
            }
        }
        Err(error) => panic!("no MADT: {error:?}"),
    }
    if let Ok(mcfg) = tables.find_table::<Mcfg>()
        && let Some(entry) = mcfg.entries().first()
    {
        PCI_CONFIGURATION.store({ entry.base_address } as usize, Ordering::Relaxed);
    }
    count
}
