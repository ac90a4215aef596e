# From OpenSBI to Rust, traps, and the switch of stacks.

.section .text.boot, "ax"
.global start
# The boot hart: a0 is its number, a1 the device tree.
start:
    la sp, boot_stack_top
    li t0, 1 << 13                  # floating point on, its state initial
    csrs sstatus, t0
    call boot_start
1:  wfi
    j 1b

# Another hart: a0 is its number, a1 points to its stack and its data.
.global other_entry
other_entry:
    ld sp, 0(a1)
    ld a0, 8(a1)
    li t0, 1 << 13
    csrs sstatus, t0
    call other_start
1:  wfi
    j 1b

.section .bss.boot, "aw", @nobits
.balign 16
boot_stack: .skip 64 * 1024
boot_stack_top:

.section .text.traps, "ax"

# All registers that a call may change, on the interrupted stack; the handler may go on in another
# thread meanwhile, and return on another hart: tp is not among them, it names the hart.
.balign 4
.global trap_entry
trap_entry:
    addi sp, sp, -320
    sd ra, 0(sp)
    sd t0, 8(sp)
    sd t1, 16(sp)
    sd t2, 24(sp)
    sd t3, 32(sp)
    sd t4, 40(sp)
    sd t5, 48(sp)
    sd t6, 56(sp)
    sd a0, 64(sp)
    sd a1, 72(sp)
    sd a2, 80(sp)
    sd a3, 88(sp)
    sd a4, 96(sp)
    sd a5, 104(sp)
    sd a6, 112(sp)
    sd a7, 120(sp)
    csrr t0, sepc
    csrr t1, sstatus
    frcsr t2
    sd t0, 128(sp)
    sd t1, 136(sp)
    sd t2, 144(sp)
    fsd ft0, 152(sp)
    fsd ft1, 160(sp)
    fsd ft2, 168(sp)
    fsd ft3, 176(sp)
    fsd ft4, 184(sp)
    fsd ft5, 192(sp)
    fsd ft6, 200(sp)
    fsd ft7, 208(sp)
    fsd ft8, 216(sp)
    fsd ft9, 224(sp)
    fsd ft10, 232(sp)
    fsd ft11, 240(sp)
    fsd fa0, 248(sp)
    fsd fa1, 256(sp)
    fsd fa2, 264(sp)
    fsd fa3, 272(sp)
    fsd fa4, 280(sp)
    fsd fa5, 288(sp)
    fsd fa6, 296(sp)
    fsd fa7, 304(sp)
    csrr a0, scause
    csrr a1, stval
    mv a2, t0
    call on_trap
    ld t0, 128(sp)
    ld t1, 136(sp)
    ld t2, 144(sp)
    csrw sepc, t0
    csrw sstatus, t1
    fscsr t2
    fld ft0, 152(sp)
    fld ft1, 160(sp)
    fld ft2, 168(sp)
    fld ft3, 176(sp)
    fld ft4, 184(sp)
    fld ft5, 192(sp)
    fld ft6, 200(sp)
    fld ft7, 208(sp)
    fld ft8, 216(sp)
    fld ft9, 224(sp)
    fld ft10, 232(sp)
    fld ft11, 240(sp)
    fld fa0, 248(sp)
    fld fa1, 256(sp)
    fld fa2, 264(sp)
    fld fa3, 272(sp)
    fld fa4, 280(sp)
    fld fa5, 288(sp)
    fld fa6, 296(sp)
    fld fa7, 304(sp)
    ld ra, 0(sp)
    ld t0, 8(sp)
    ld t1, 16(sp)
    ld t2, 24(sp)
    ld t3, 32(sp)
    ld t4, 40(sp)
    ld t5, 48(sp)
    ld t6, 56(sp)
    ld a0, 64(sp)
    ld a1, 72(sp)
    ld a2, 80(sp)
    ld a3, 88(sp)
    ld a4, 96(sp)
    ld a5, 104(sp)
    ld a6, 112(sp)
    ld a7, 120(sp)
    addi sp, sp, 320
    sret

# switch(save: a0, to: a1): what a call keeps goes on the old stack, its pointer to *save.
.section .text.switch, "ax"
.global switch_stacks
switch_stacks:
    addi sp, sp, -208
    sd ra, 0(sp)
    sd s0, 8(sp)
    sd s1, 16(sp)
    sd s2, 24(sp)
    sd s3, 32(sp)
    sd s4, 40(sp)
    sd s5, 48(sp)
    sd s6, 56(sp)
    sd s7, 64(sp)
    sd s8, 72(sp)
    sd s9, 80(sp)
    sd s10, 88(sp)
    sd s11, 96(sp)
    fsd fs0, 104(sp)
    fsd fs1, 112(sp)
    fsd fs2, 120(sp)
    fsd fs3, 128(sp)
    fsd fs4, 136(sp)
    fsd fs5, 144(sp)
    fsd fs6, 152(sp)
    fsd fs7, 160(sp)
    fsd fs8, 168(sp)
    fsd fs9, 176(sp)
    fsd fs10, 184(sp)
    fsd fs11, 192(sp)
    sd sp, 0(a0)
    mv sp, a1
    ld ra, 0(sp)
    ld s0, 8(sp)
    ld s1, 16(sp)
    ld s2, 24(sp)
    ld s3, 32(sp)
    ld s4, 40(sp)
    ld s5, 48(sp)
    ld s6, 56(sp)
    ld s7, 64(sp)
    ld s8, 72(sp)
    ld s9, 80(sp)
    ld s10, 88(sp)
    ld s11, 96(sp)
    fld fs0, 104(sp)
    fld fs1, 112(sp)
    fld fs2, 120(sp)
    fld fs3, 128(sp)
    fld fs4, 136(sp)
    fld fs5, 144(sp)
    fld fs6, 152(sp)
    fld fs7, 160(sp)
    fld fs8, 168(sp)
    fld fs9, 176(sp)
    fld fs10, 184(sp)
    fld fs11, 192(sp)
    addi sp, sp, 208
    ret

# Where a fresh stack begins: s0 is the entry, s1 its argument.
.global fresh_stack
fresh_stack:
    mv a0, s1
    jalr s0
1:  j 1b
