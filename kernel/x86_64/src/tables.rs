//! Descriptor tables and interrupt stacks: one set for each CPU, from the heap but for the first.

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use kernel_core::CpuLocal;
use kernel_core::handlers;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::registers::control::Cr2;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use crate::apic;
use crate::machine::Machine;

const STACK_BYTES: usize = 16 * 1024;
/// Stacks of NMIs, exceptions, interrupts: numbers 1, 2 and 3 of the table.
const STACKS: usize = 3;

#[repr(C, align(16))]
struct Stack([u8; STACK_BYTES]);

/// What a CPU's interrupts need.
struct CpuTables {
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
    stacks: [Stack; STACKS],
}

struct BootTables(UnsafeCell<MaybeUninit<CpuTables>>);
// SAFETY: the boot CPU alone touches it.
unsafe impl Sync for BootTables {}
static BOOT_TABLES: BootTables = BootTables(UnsafeCell::new(MaybeUninit::uninit()));

/// One interrupt gate.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u16,
    selector: u16,
    stack: u8,
    kind: u8,
    middle: u16,
    high: u32,
    zero: u32,
}

impl Gate {
    const NONE: Self = Self { low: 0, selector: 0, stack: 0, kind: 0, middle: 0, high: 0, zero: 0 };

    fn new(entry: usize, stack: u8) -> Self {
        Self {
            low: entry as u16,
            selector: 0x08,
            stack,
            kind: 0x8E, // present, interrupt gate: interrupts are masked at entry
            middle: (entry >> 16) as u16,
            high: (entry >> 32) as u32,
            zero: 0,
        }
    }
}

#[repr(align(16))]
struct Gates(UnsafeCell<[Gate; 256]>);
// SAFETY: written by the boot CPU before any other runs.
unsafe impl Sync for Gates {}
static GATES: Gates = Gates(UnsafeCell::new([Gate::NONE; 256]));
static GATES_READY: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn timer_entry();
    fn message_entry();
    fn nmi_entry();
    static exception_entries: [usize; 32];
}

fn fill_gates() {
    // SAFETY: the boot CPU, alone.
    let gates = unsafe { &mut *GATES.0.get() };
    // SAFETY: a table in `interrupts.s`.
    let entries = unsafe { &exception_entries };
    for (gate, entry) in gates.iter_mut().zip(entries) {
        *gate = Gate::new(*entry, 2);
    }
    gates[2] = Gate::new(nmi_entry as *const () as usize, 1);
    gates[usize::from(apic::TIMER_VECTOR)] = Gate::new(timer_entry as *const () as usize, 3);
    gates[usize::from(apic::MESSAGE_VECTOR)] = Gate::new(message_entry as *const () as usize, 3);
    GATES_READY.store(true, Ordering::Release);
}

/// Sets up and loads the boot CPU's tables.
pub fn load_boot() {
    fill_gates();
    // SAFETY: the boot CPU, once. Zeros are a valid value of all parts but the two written here.
    unsafe {
        let tables = (*BOOT_TABLES.0.get()).as_mut_ptr();
        (&raw mut (*tables).gdt).write(GlobalDescriptorTable::new());
        (&raw mut (*tables).tss).write(TaskStateSegment::new());
        load_tables(&mut *tables);
    }
}

/// Makes the tables of another CPU, from the heap; `free` gives them back.
pub fn make(local: &CpuLocal) {
    let mut tables = Box::<CpuTables>::new_uninit();
    let pointer = tables.as_mut_ptr();
    // SAFETY: writes the parts that are not plain bytes; the stacks are plain bytes.
    unsafe {
        (&raw mut (*pointer).gdt).write(GlobalDescriptorTable::new());
        (&raw mut (*pointer).tss).write(TaskStateSegment::new());
        (&raw mut (*pointer).stacks).write_bytes(0, 1);
        let tables = Box::into_raw(tables.assume_init());
        local.arch[0].store(tables.expose_provenance(), Ordering::Release);
    }
}

/// Gives the tables of a CPU back that is parked for good.
///
/// # Safety
/// - The CPU takes no interrupt any more.
pub unsafe fn free(local: &CpuLocal) {
    let tables = local.arch[0].swap(0, Ordering::Acquire);
    if tables != 0 {
        // SAFETY: from `make`; nobody uses them (condition).
        drop(unsafe { Box::from_raw(ptr::with_exposed_provenance_mut::<CpuTables>(tables)) });
    }
}

/// Loads this CPU's tables.
pub fn load(local: &'static CpuLocal) {
    let tables = local.arch[0].load(Ordering::Acquire);
    // SAFETY: made for this CPU, and freed only when it is parked.
    load_tables(unsafe { &mut *ptr::with_exposed_provenance_mut(tables) });
}

fn load_tables(tables: &'static mut CpuTables) {
    let mut tops = [VirtAddr::zero(); 7];
    for (top, stack) in tops.iter_mut().zip(&tables.stacks) {
        *top = VirtAddr::from_ptr(ptr::from_ref(stack).wrapping_add(1));
    }
    tables.tss.interrupt_stack_table = tops;
    let code = tables.gdt.append(Descriptor::kernel_code_segment());
    let data = tables.gdt.append(Descriptor::kernel_data_segment());
    let tss = tables.gdt.append(Descriptor::tss_segment(&tables.tss));
    tables.gdt.load();
    let pointer = DescriptorTablePointer {
        limit: (size_of::<[Gate; 256]>() - 1) as u16,
        base: VirtAddr::from_ptr(GATES.0.get()),
    };
    // SAFETY: the selectors are of the table just loaded; the gates are filled; all of it stays.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        load_tss(tss);
        lidt(&pointer);
    }
}

/// Called by `interrupts.s` with interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn on_interrupt(vector: usize) {
    // First: what follows may go on in another thread.
    apic::end_of_interrupt();
    if vector == usize::from(apic::TIMER_VECTOR) {
        handlers::on_tick::<Machine>();
    } else {
        handlers::on_message::<Machine>();
    }
}

#[unsafe(no_mangle)]
extern "C" fn on_nmi() {
    handlers::on_nmi::<Machine>();
}

/// What `interrupts.s` and the CPU push.
#[repr(C)]
struct Exception {
    vector: usize,
    code: usize,
    instruction: usize,
    code_segment: usize,
    flags: usize,
    stack: usize,
}

#[unsafe(no_mangle)]
extern "C" fn on_exception(frame: &Exception) -> ! {
    panic!(
        "exception {} (code {:#x}) at {:#x}, stack {:#x}, address {:#x}",
        frame.vector,
        frame.code,
        frame.instruction,
        frame.stack,
        Cr2::read_raw(),
    )
}
