# Interrupt entries. AT&T syntax. The macros `save_sse` and `restore_sse` come from Rust, and are
# empty where the kernel is compiled without SSE.

.section .text.interrupts, "ax"
.code64

# Interrupts arrive on a stack of their own (IST 3), since the code below may be compiled with a red
# zone: 128 bytes below the stack pointer that are in use. The frame moves to the interrupted stack,
# below the red zone, so that the handler can switch to another thread and leave the frame there.
.macro interrupt_entry name, vector
.global \name
\name:
    pushq $\vector
    jmp interrupt_common
.endm
interrupt_entry timer_entry, 0x20
interrupt_entry message_entry, 0x21

interrupt_common:
    pushq %rax
    pushq %rdx
    movq 48(%rsp), %rax             # the interrupted stack pointer
    subq $128, %rax
    andq $-16, %rax
    subq $64, %rax
    .irp offset, 0, 8, 16, 24, 32, 40, 48, 56
    movq \offset(%rsp), %rdx
    movq %rdx, \offset(%rax)
    .endr
    movq %rax, %rsp
    pushq %rcx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    movq 72(%rsp), %rdi             # the vector
    subq $(512 + 8), %rsp
    save_sse
    cld
    call on_interrupt
    restore_sse
    addq $(512 + 8), %rsp
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rcx
    popq %rdx
    popq %rax
    addq $8, %rsp
    iretq

# An NMI stays on its own stack (IST 1): it never switches threads.
.global nmi_entry
nmi_entry:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    subq $512, %rsp
    save_sse
    cld
    call on_nmi
    restore_sse
    addq $512, %rsp
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    iretq

# Exceptions: none is expected. The report is made on IST 2.
.macro exception vector, has_code
exception_\vector:
    .if \has_code == 0
    pushq $0
    .endif
    pushq $\vector
    jmp exception_common
.endm
.altmacro
.macro exceptions first, last
    .set number, \first
    .rept \last - \first + 1
    exception_by %number
    .set number, number + 1
    .endr
.endm
.macro exception_by number
    .if (\number == 8) || (\number >= 10 && \number <= 14) || (\number == 17) || (\number == 21)
    exception \number, 1
    .else
    exception \number, 0
    .endif
.endm
exceptions 0, 31
.noaltmacro

exception_common:
    movq %rsp, %rdi
    andq $-16, %rsp
    cld
    call on_exception
    ud2

.section .rodata.exceptions, "a"
.balign 8
.global exception_entries
exception_entries:
    .irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .quad exception_\number
    .endr

# switch(save: rdi, to: rsi): callee-saved registers on the old stack, its pointer to *save.
.section .text.switch, "ax"
.global switch_stacks
switch_stacks:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

# Where a fresh stack begins: rbx is the entry, r12 its argument.
.global fresh_stack
fresh_stack:
    movq %r12, %rdi
    xorl %ebp, %ebp
    call *%rbx
    ud2
