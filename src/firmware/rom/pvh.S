/*
 * Starts a kernel by the PVH entry point. The start structure is the SETUP item; the memory map is filled
 * in here, from the BIOS.
 */
        .include "rom.inc"

        .set INFO_MEMMAP_PADDR, 40
        .set INFO_MEMMAP_ENTRIES, 48

        rom_header "PVH loader"
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
        movw $KEY_KERNEL_ENTRY, %ax
        call read_value
        movl %eax, SAVED + 24
        movw $KEY_SETUP_ADDR, %ax
        call read_value
        movl %eax, SAVED + 28

        rom_e820 24, 0
        movl SAVED + 28, %esi
        movl $MEMORY_MAP, INFO_MEMMAP_PADDR(%si)
        movl $0, INFO_MEMMAP_PADDR + 4(%si)
        movzwl %bp, %eax
        movl %eax, INFO_MEMMAP_ENTRIES(%si)

        rom_enter_protected
        movl SAVED + 28, %ebx
        xorl %eax, %eax
        jmp *SAVED + 24
