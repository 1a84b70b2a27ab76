/*
 * The boot order as firmware reads it: OpenFirmware device paths, one a line, by bootindex.
 */
#ifndef OSTRICH_FIRMWARE_BOOTORDER_H
#define OSTRICH_FIRMWARE_BOOTORDER_H

#include "core/vm/machine.h"

/* A path that belongs to no device (boot ROMs). It comes before devices with the same index. */
void bootorder_add(Machine *machine, int32_t bootindex, const char *path);
/* "/pci@i0cf8/ide@1,1/drive@0/disk@0". Caller frees. */
char *bootorder_device_path(Device *dev);
/* Writes the files "bootorder" and "bios-geometry", again when devices came or went. Two devices with one index are an error. */
Error *bootorder_publish(Machine *machine) MUST_USE;
void bootorder_free(Machine *machine);

#endif
