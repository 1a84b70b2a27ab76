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
        movw $SCRATCH_SEGMENT, %ax
        call boot_state
        rom_load KERNEL
        rom_load INITRD
        rom_load CMDLINE
        rom_load SETUP
        rom_save_entry

        rom_e820 24, 0
        movl SAVED + 24, %esi
        movl SAVED + 28, %ebx
        movw %bx, %di           /* the structure lies below 64 KiB */
        xorw %ax, %ax
        movw %ax, %es
        movl $MEMORY_MAP, %eax
        call linear
        movl %eax, %es:INFO_MEMMAP_PADDR(%di)
        movl $0, %es:INFO_MEMMAP_PADDR + 4(%di)
        movzwl %bp, %eax
        movl %eax, %es:INFO_MEMMAP_ENTRIES(%di)

        rom_enter_protected
        xorl %eax, %eax
        jmp *%esi
