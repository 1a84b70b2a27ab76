/* Starts a Linux kernel by the 16-bit boot protocol. */
        .include "rom.inc"

        rom_header "Linux loader"
        rom_code

boot:
        movw $SCRATCH_SEGMENT, %ax
        call boot_state
        rom_load KERNEL
        rom_load INITRD
        rom_load CMDLINE
        rom_load SETUP

        /* The stack ends where the command line begins. */
        movw $KEY_CMDLINE_ADDR, %ax
        call read_value
        movl %eax, %esi
        movw $KEY_SETUP_ADDR, %ax
        call read_value
        subl %eax, %esi
        subl $16, %esi
        shrl $4, %eax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %fs
        movw %ax, %gs
        movw %ax, %ss
        movw %si, %sp
        addw $0x20, %ax
        pushw %ax
        pushw $0
        lretw
