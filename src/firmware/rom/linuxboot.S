/* Starts a Linux kernel by the 16-bit boot protocol. */
        .include "rom.inc"

        rom_header "Linux loader"
        rom_code

boot:
        call boot_state
        movw $KEY_KERNEL_SIZE << 8 | KEY_KERNEL_ADDR, %bx
        movb $KEY_KERNEL_DATA, %cl
        call load_item
        movw $KEY_INITRD_SIZE << 8 | KEY_INITRD_ADDR, %bx
        movb $KEY_INITRD_DATA, %cl
        call load_item
        movw $KEY_CMDLINE_SIZE << 8 | KEY_CMDLINE_ADDR, %bx
        movb $KEY_CMDLINE_DATA, %cl
        call load_item
        movw $KEY_SETUP_SIZE << 8 | KEY_SETUP_ADDR, %bx
        movb $KEY_SETUP_DATA, %cl
        call load_item

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
