/*
 * Starts a Multiboot 1 kernel. The information structure is the SETUP item; memory sizes and the memory
 * map are filled in here, from the BIOS.
 */
        .include "rom.inc"

        .set INFO_FLAGS, 0
        .set INFO_MEM_LOWER, 4
        .set INFO_MEM_UPPER, 8
        .set INFO_MMAP_LENGTH, 44
        .set INFO_MMAP_ADDR, 48

        rom_header "Multiboot loader"
        rom_code

boot:
        call boot_state
        rom_load KERNEL
        rom_load INITRD
        rom_load SETUP
        rom_save_entry

        rom_e820 24, 4
        movl SAVED + 28, %esi           /* the structure lies below 64 KiB */
        orl $0x41, INFO_FLAGS(%si)
        movl $MEMORY_MAP, INFO_MMAP_ADDR(%si)
        movzwl %bp, %eax
        imull $24, %eax
        movl %eax, INFO_MMAP_LENGTH(%si)
        int $0x12
        movzwl %ax, %eax
        movl %eax, INFO_MEM_LOWER(%si)

        /* KiB above 1 MiB: the map's range that begins there. */
        movw $MEMORY_MAP + 4, %di
        movw %bp, %cx
        jcxz 3f
1:      cmpl $0x100000, (%di)
        jne 2f
        cmpl $0, 4(%di)
        jne 2f
        movl 8(%di), %eax
        shrl $10, %eax
        movl %eax, INFO_MEM_UPPER(%si)
2:      addw $24, %di
        loop 1b
3:
        rom_enter_protected
        movl SAVED + 28, %ebx
        movl $0x2badb002, %eax
        jmp *SAVED + 24
