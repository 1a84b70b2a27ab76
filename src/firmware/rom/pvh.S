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
        rom_load KERNEL
        rom_load INITRD
        rom_load CMDLINE
        rom_load SETUP
        rom_save_entry

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
