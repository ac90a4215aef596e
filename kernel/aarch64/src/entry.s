// From the loader to Rust, exceptions, and the switch of stacks.

.section .text.boot, "ax"
.global start
// The boot CPU, at EL1 with everything masked: x0 is the device tree, or 0.
start:
    mov x19, x0
    bl set_up_cpu
    adrp x1, boot_stack_top
    add x1, x1, :lo12:boot_stack_top
    mov sp, x1
    mov x0, x19
    bl boot_start
1:  wfi
    b 1b

// Another CPU, as PSCI starts it: x0 points to its stack and its data.
.global other_entry
other_entry:
    mov x19, x0
    bl set_up_cpu               // before the first look at memory that others wrote
    ldp x1, x0, [x19]
    mov sp, x1
    bl other_start
1:  wfi
    b 1b

// Floating point, the counter of cycles, exceptions, translation and caches. Changes x0 only.
set_up_cpu:
    mov x0, #3 << 20
    msr cpacr_el1, x0
    mov x0, #0x41               // PMCR: enabled, 64 bits long
    msr pmcr_el0, x0
    msr pmccfiltr_el0, xzr
    mov x0, #1 << 31            // the counter of cycles
    msr pmcntenset_el0, x0
    adrp x0, vectors
    add x0, x0, :lo12:vectors
    msr vbar_el1, x0
    mov x0, #0xff04             // 0: device, nGnRE; 1: normal memory, cached
    msr mair_el1, x0
    ldr x0, =0x200803519        // 39 bits of address by TTBR0, 4 KiB pages, walks cached, 40 bits physical
    msr tcr_el1, x0
    adrp x0, boot_tables
    msr ttbr0_el1, x0
    tlbi vmalle1
    dsb nsh
    isb
    mrs x0, sctlr_el1
    bic x0, x0, #1 << 1         // unaligned accesses are fine
    orr x0, x0, #1 << 12
    orr x0, x0, #1 << 2
    orr x0, x0, #1
    msr sctlr_el1, x0
    isb
    ret

// Everything is where it is: one gigabyte of devices, then memory. No entry is global: other tables,
// with a number (ASID) of their own, map the same.
.section .rodata.tables, "a"
.balign 4096
boot_tables:
    .quad 0x0060000000000c01
    .set gigabyte, 1
    .rept 16
    .quad (gigabyte << 30) | 0x0040000000000f05
    .set gigabyte, gigabyte + 1
    .endr
    .fill 512 - 17, 8, 0

.section .bss.boot, "aw", @nobits
.balign 16
boot_stack: .skip 64 * 1024
boot_stack_top:

.section .text.exceptions, "ax"

.macro fatal kind
    .balign 128
    mov x0, #\kind
    b fault_entry
.endm

.balign 2048
vectors:
    fatal 0                     // with the stack pointer of EL0, which is not used
    fatal 1
    fatal 2
    fatal 3
    fatal 4                     // synchronous: a fault
    .balign 128
    b interrupt_entry
    fatal 6
    fatal 7
    fatal 8                     // from EL0, where nobody is
    fatal 9
    fatal 10
    fatal 11
    fatal 12
    fatal 13
    fatal 14
    fatal 15

fault_entry:
    mrs x1, esr_el1
    mrs x2, far_el1
    mrs x3, elr_el1
    bl on_fault
1:  b 1b

// What is stored on the stack, and loaded from there: `op` is stp or ldp.
.macro temporaries op
    \op x0, x1, [sp]
    \op x2, x3, [sp, #16]
    \op x4, x5, [sp, #32]
    \op x6, x7, [sp, #48]
    \op x8, x9, [sp, #64]
    \op x10, x11, [sp, #80]
    \op x12, x13, [sp, #96]
    \op x14, x15, [sp, #112]
    \op x16, x17, [sp, #128]
    \op x18, x30, [sp, #144]
.endm
.macro vectors op
    \op q0, q1, [sp, #192]
    \op q2, q3, [sp, #224]
    \op q4, q5, [sp, #256]
    \op q6, q7, [sp, #288]
    \op q8, q9, [sp, #320]
    \op q10, q11, [sp, #352]
    \op q12, q13, [sp, #384]
    \op q14, q15, [sp, #416]
    \op q16, q17, [sp, #448]
    \op q18, q19, [sp, #480]
    \op q20, q21, [sp, #512]
    \op q22, q23, [sp, #544]
    \op q24, q25, [sp, #576]
    \op q26, q27, [sp, #608]
    \op q28, q29, [sp, #640]
    \op q30, q31, [sp, #672]
.endm
.macro callee_saved op
    \op x19, x20, [sp]
    \op x21, x22, [sp, #16]
    \op x23, x24, [sp, #32]
    \op x25, x26, [sp, #48]
    \op x27, x28, [sp, #64]
    \op x29, x30, [sp, #80]
    \op d8, d9, [sp, #96]
    \op d10, d11, [sp, #112]
    \op d12, d13, [sp, #128]
    \op d14, d15, [sp, #144]
.endm

// All registers that a call may change, on the interrupted stack; the handler may go on in another
// thread meanwhile, and return on another CPU: tpidr_el1 is not among them, it names the CPU; nor is
// tpidr_el0, which whoever switches to this thread sets.
interrupt_entry:
    sub sp, sp, #704
    temporaries stp
    mrs x0, elr_el1
    mrs x1, spsr_el1
    mrs x2, fpsr
    mrs x3, fpcr
    stp x0, x1, [sp, #160]
    stp x2, x3, [sp, #176]
    vectors stp
    bl on_interrupt
    ldp x0, x1, [sp, #160]
    ldp x2, x3, [sp, #176]
    msr elr_el1, x0
    msr spsr_el1, x1
    msr fpsr, x2
    msr fpcr, x3
    vectors ldp
    temporaries ldp
    add sp, sp, #704
    eret

// switch(save: x0, to: x1): what a call keeps goes on the old stack, its pointer to *save.
.section .text.switch, "ax"
.global switch_stacks
switch_stacks:
    sub sp, sp, #160
    callee_saved stp
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    callee_saved ldp
    add sp, sp, #160
    ret

// Where a fresh stack begins: x19 is the entry, x20 its argument.
.global fresh_stack
fresh_stack:
    mov x0, x20
    blr x19
1:  b 1b
