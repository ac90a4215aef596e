# How a CPU comes from what firmware leaves it in to long mode and Rust.
# AT&T syntax.

.section .note.pvh, "a", @note
.balign 4
.long 4, 8, 18                      # name and value lengths; XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.quad pvh_start

# The boot CPU: 32 bits, no paging; EBX points to hvm_start_info.
.section .text.boot, "ax"
.code32
.global pvh_start
pvh_start:
    cli
    cld
    movl $boot_stack_top, %esp
    movl %ebx, %esi

    # Identity mapping of 4 GiB by pages of 2 MiB; devices (from 0xB0000000 up) uncached.
    movl $boot_pdpt + 3, boot_pml4
    movl $boot_pds + 3, %eax
    movl $boot_pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $0x83, %eax
    movl $boot_pds, %edi
    movl $2048, %ecx
2:  cmpl $0xB0000000, %eax
    jb 3f
    orl $0x18, %eax
3:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    call enter_long_mode
    ljmpl $0x08, $boot_start64

# Paging and long mode on; on return the CPU runs 32-bit code still.
enter_long_mode:
    movl %cr4, %eax
    orl $0x620, %eax                # PAE, and SSE's state is the system's care: OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx          # EFER
    rdmsr
    orl $0x900, %eax                # LME, NXE
    wrmsr
    movl %cr0, %eax
    andl $0x9FFFFFFB, %eax          # caches on (no CD, NW), no FPU emulation (EM)
    orl $0x80010022, %eax           # PG, WP, NE, MP
    movl %eax, %cr0
    lgdtl boot_gdt_pointer
    ret

.code64
boot_start64:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    movl %esi, %edi
    call boot_start
    ud2

# Other CPUs begin here, in real mode, in a copy of this piece at 0x8000.
.section .rodata.trampoline, "a"
.code16
.global trampoline_start
trampoline_start:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt_pointer - trampoline_start + 0x8000
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $other_start32
.balign 4
trampoline_gdt_pointer:
    .word 31
    .long boot_gdt
.global trampoline_end
trampoline_end:

.section .text.boot, "ax"
.code32
other_start32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl other_stack, %esp
    call enter_long_mode
    ljmpl $0x08, $other_start64
.code64
other_start64:
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movq other_stack, %rsp
    movq other_local, %rdi
    xorl %ebp, %ebp
    call other_start
    ud2

.section .data.boot, "aw"
.balign 16
boot_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF        # 0x08: 64-bit code
    .quad 0x00CF93000000FFFF        # 0x10: data
    .quad 0x00CF9B000000FFFF        # 0x18: 32-bit code
boot_gdt_pointer:
    .word 31
    .quad boot_gdt
.balign 8
# The stack and the data of the CPU that is being started.
.global other_stack
other_stack: .quad 0
.global other_local
other_local: .quad 0

.section .bss.boot, "aw", @nobits
.balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pds:  .skip 4 * 4096
boot_stack: .skip 64 * 1024
boot_stack_top:
