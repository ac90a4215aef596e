//! What a machine has to provide, and what it says at boot.

use buddy_slab_allocator::{MemoryKind, MemoryRange};
use virtio_drivers::transport::Transport;

use crate::cpu::CpuLocal;
use crate::platform::Heap;
use crate::thread::Thread;

/// A machine, as one type without values.
///
/// # Safety
/// - [`cpu`](Self::cpu), [`local`](Self::local) and [`thread`](Self::thread) say what their docs say.
/// - Between [`mask`](Self::mask) and [`restore`](Self::restore) no interrupt but an NMI is taken.
/// - [`heap`](Self::heap) always returns the same heap.
pub unsafe trait Arch: Sized + Send + Sync + 'static {
    /// Its name, as in `cargo xtask kernel NAME`.
    const NAME: &'static str;

    /// Physical addresses that the DMA pages of the disk must stay below.
    const DMA_LIMIT: u64;

    /// How the disk is reached.
    type Disk: Transport;

    /// The heap: a `static` of the architecture's crate.
    fn heap() -> &'static Heap<Self>;

    /// Writes bytes to the serial line, as they are.
    fn write_serial(bytes: &[u8]);

    /// Ends the run; the exit code of the emulator tells the outcome.
    fn exit(success: bool) -> !;

    // ---- this CPU ----

    /// Index of the running CPU: possibly stale when it is looked at, unless the caller is pinned.
    /// `usize::MAX` until the CPU has one. May be asked from the first instruction on.
    fn cpu() -> usize;

    /// The running CPU's data. The caller is pinned.
    fn local() -> &'static CpuLocal;

    /// The running thread, or that which a handler interrupted. Never stale: it is read so that no
    /// migration can come between (one instruction, or a register that is the thread's own).
    fn thread() -> &'static Thread;

    /// Makes `local` what [`local`](Self::local) and [`cpu`](Self::cpu) read on this CPU.
    ///
    /// # Safety
    /// - Interrupts are masked, and `local` is this CPU's alone.
    unsafe fn set_local(local: &'static CpuLocal);

    /// Makes `thread` the running one.
    ///
    /// # Safety
    /// - Interrupts are masked; the caller switches to that thread's stack next, or is on it.
    unsafe fn set_thread(thread: &'static Thread);

    /// Masks interrupts; says whether they were enabled.
    fn mask() -> bool;

    /// Enables interrupts if `enabled`.
    ///
    /// # Safety
    /// - `enabled` comes from the matching `mask`, or the caller may be interrupted from here on.
    unsafe fn restore(enabled: bool);

    /// Whether interrupts are enabled.
    fn interrupts_enabled() -> bool;

    /// With interrupts masked: sleeps until one is pending, takes it, returns with interrupts masked.
    /// None that becomes pending after the caller's last look at the queues is slept through.
    fn wait();

    /// Tells the CPU that it is in a loop that waits.
    fn relax() {
        core::hint::spin_loop();
    }

    /// Stores 1 to `flag` and stops the CPU for good, without touching its stack after the store.
    fn park(flag: &'static core::sync::atomic::AtomicUsize) -> !;

    // ---- other CPUs ----

    /// Starts CPU `index` (1 and up): there, on the stack that ends at `stack_top`, with interrupts
    /// masked, `secondary_main(local)` is called.
    ///
    /// # Safety
    /// - `local` and the stack are that CPU's alone from now on; each CPU is started once.
    unsafe fn start_cpu(index: usize, local: &'static CpuLocal, stack_top: usize);

    /// Gives back what `start_cpu` allocated.
    ///
    /// # Safety
    /// - The CPU is parked.
    unsafe fn free_cpu(local: &CpuLocal) {
        let _ = local;
    }

    /// Interrupts CPU `index`: `handlers::on_message` runs there soon. May be called anywhere but in
    /// an NMI.
    fn notify(index: usize);

    /// Whether [`send_nmi`](Self::send_nmi) does something.
    const HAS_NMI: bool = false;

    /// Sends CPU `index` an interrupt that masking does not hold back: `handlers::on_nmi` runs there.
    fn send_nmi(index: usize) {
        let _ = index;
    }

    // ---- time ----

    /// Starts this CPU's timer, or gives it another rate: `handlers::on_tick` runs `rate_hz` times a
    /// second. 0 stops it.
    fn set_timer(rate_hz: u32);

    /// Nanoseconds since some moment, about.
    fn now_ns() -> u64;

    /// A counter of instructions or cycles of this CPU; under QEMU's `-icount shift=0`, of instructions.
    fn instructions() -> u64;

    // ---- threads ----

    /// Lays out a fresh stack so that the first switch to it calls `entry(argument)` with interrupts
    /// masked. Returns the stack pointer to switch to.
    ///
    /// # Safety
    /// - `stack_top` is the aligned end of a stack that nobody uses.
    unsafe fn prepare_stack(
        stack_top: usize,
        entry: extern "C" fn(usize) -> !,
        argument: usize,
    ) -> usize;

    /// Saves the callee-saved registers on this stack and its pointer in `save`, then goes on at `to`.
    ///
    /// # Safety
    /// - Interrupts are masked; `to` comes from `prepare_stack` or an earlier `switch`, and is used
    ///   this once; `save` may be written.
    unsafe fn switch(save: *mut usize, to: usize);

    // ---- memory ----

    /// Where `vaddr` lies physically. Never allocates.
    fn virt_to_phys(vaddr: usize) -> u64;

    /// The address by which the kernel reaches physical `paddr`, memory or device.
    fn phys_to_virt(paddr: u64) -> usize;

    /// Builds page tables from the heap (`phases::tables::frame` gives and takes the pages) that
    /// are this kernel's own and map `pages` one after the other from some address that was free.
    /// With them active on this CPU calls `visit(address of the mapping)`, then goes back to the old
    /// ones and frees the new. Returns how many pages the tables took. Interrupts are masked.
    fn with_mapping(pages: &[usize], visit: &mut dyn FnMut(*mut u8)) -> usize;

    /// The disk's transport, if the machine has a disk.
    fn disk() -> Option<Self::Disk>;
}

/// How many ranges a memory map may have here; more are left out.
const MAX_RANGES: usize = 32;

/// What the machine says at boot, copied out of whatever memory it said it in.
pub struct BootInfo {
    ranges: [MemoryRange; MAX_RANGES],
    range_count: usize,
    reserved: [(usize, usize); MAX_RANGES],
    reserved_count: usize,
    command_line: [u8; 256],
    command_line_len: usize,
    /// How many CPUs there are.
    pub cpu_count: usize,
}

impl Default for BootInfo {
    fn default() -> Self {
        Self::new()
    }
}

impl BootInfo {
    /// Nothing yet.
    pub const fn new() -> Self {
        let none = MemoryRange {
            base: core::ptr::null_mut(),
            len_bytes: 0,
            kind: MemoryKind::Reserved,
            node: 0,
        };
        Self {
            ranges: [none; MAX_RANGES],
            range_count: 0,
            reserved: [(0, 0); MAX_RANGES],
            reserved_count: 0,
            command_line: [0; 256],
            command_line_len: 0,
            cpu_count: 1,
        }
    }

    /// Adds `len_bytes` of usable memory at `base`, as the kernel reaches it.
    pub fn add_memory(&mut self, base: usize, len_bytes: usize) {
        if self.range_count < MAX_RANGES {
            self.ranges[self.range_count] = MemoryRange {
                base: core::ptr::with_exposed_provenance_mut(base),
                len_bytes,
                kind: MemoryKind::Usable,
                node: 0,
            };
            self.range_count += 1;
        }
    }

    /// Says that a range is not to be used, whatever the map says.
    pub fn reserve(&mut self, base: usize, len_bytes: usize) {
        assert!(self.reserved_count < MAX_RANGES, "too many reserved ranges");
        self.reserved[self.reserved_count] = (base, len_bytes);
        self.reserved_count += 1;
    }

    /// Copies the command line; what is too long is cut off.
    pub fn set_command_line(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.command_line.len());
        self.command_line[..len].copy_from_slice(&bytes[..len]);
        self.command_line_len = len;
    }

    /// The ranges of the map.
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.ranges[..self.range_count]
    }

    /// The reserved ranges: address and length.
    pub fn reserved(&self) -> &[(usize, usize)] {
        &self.reserved[..self.reserved_count]
    }

    /// The command line.
    pub fn command_line(&self) -> &str {
        core::str::from_utf8(&self.command_line[..self.command_line_len]).unwrap_or("")
    }
}
