/*
 * Starts a Multiboot 1 kernel. The information structure is the SETUP item; memory sizes and the memory
 * map are filled in here, from the BIOS. The scratch segment lies right below the structure: both are where the
 * kernel is not, which may lie anywhere.
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
        movw $KEY_SETUP_ADDR, %ax
        movw $SELECT, %dx
        outw %ax, %dx
        incw %dx
        movw $4, %cx
1:      inb %dx, %al
        rorl $8, %eax
        loop 1b
        shrl $4, %eax
        subw $SCRATCH_SIZE >> 4, %ax
        call boot_state
        rom_load KERNEL
        rom_load INITRD
        rom_load SETUP
        rom_save_entry

        rom_e820 24, 4
        movw $SCRATCH_SIZE, %si         /* the structure's offset */
        orl $0x41, INFO_FLAGS(%si)
        movl $MEMORY_MAP, %eax
        call linear
        movl %eax, INFO_MMAP_ADDR(%si)
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
        movl SAVED + 24, %esi
        movl SAVED + 28, %ebx
        rom_enter_protected
        movl $0x2badb002, %eax
        jmp *%esi
