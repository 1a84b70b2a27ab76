/*
 * ACPI Machine Language, written front to back into one buffer (ACPI 6.4 chapter 20).
 *
 *     aml_scope(a, "\\_SB");
 *         aml_device(a, "RTC");
 *             aml_name_eisaid(a, "_HID", "PNP0B00");
 *         aml_end(a);
 *     aml_end(a);
 *
 * Things with a length (scope, device, method, if, package, buffer) stay open until aml_end(); their
 * length is put in then. Expressions are written operand by operand in the encoding's own order.
 */
#ifndef OSTRICH_FIRMWARE_AML_H
#define OSTRICH_FIRMWARE_AML_H

#include "base/base.h"

typedef struct Aml {
    GByteArray *out;
    GArray *open; /* offsets where a length must be put */
} Aml;

void aml_init(Aml *a, GByteArray *out);
void aml_fini(Aml *a); /* everything opened must have ended */

/* Names: one segment "RTC", or a path "\\_SB.PCI0.ISA", "^X"; short segments are padded. */
void aml_path(Aml *a, const char *path);
void aml_int(Aml *a, uint64_t value);   /* the shortest form */
void aml_string(Aml *a, const char *text);
void aml_eisaid(Aml *a, const char *id);
void aml_op(Aml *a, unsigned opcode);   /* a bare opcode; 0x5bxx for extended ones */
void aml_byte(Aml *a, uint8_t byte);
void aml_bytes(Aml *a, const void *bytes, size_t length);

void aml_scope(Aml *a, const char *path);
void aml_device(Aml *a, const char *name);
void aml_method(Aml *a, const char *name, unsigned args, bool serialized);
void aml_package(Aml *a, unsigned elements);
void aml_if(Aml *a);   /* predicate follows */
void aml_else(Aml *a);
void aml_while(Aml *a);
void aml_buffer(Aml *a, const void *bytes, size_t length); /* closed */
void aml_end(Aml *a);

void aml_name(Aml *a, const char *name); /* value follows */
void aml_name_int(Aml *a, const char *name, uint64_t value);
void aml_name_string(Aml *a, const char *name, const char *text);
void aml_name_eisaid(Aml *a, const char *name, const char *id);
void aml_return_int(Aml *a, uint64_t value);
void aml_store(Aml *a, unsigned source, const char *name); /* source: an opcode, AML_ARG0 for one */
void aml_store_int(Aml *a, uint64_t value, const char *name);
void aml_set_local0(Aml *a, uint64_t value);
void aml_mutex(Aml *a, const char *name);
void aml_acquire(Aml *a, const char *mutex); /* waits for as long as it takes */
void aml_release(Aml *a, const char *mutex);

enum { AML_SYSTEM_MEMORY = 0, AML_SYSTEM_IO = 1, AML_PCI_CONFIG = 2 };
void aml_op_region(Aml *a, const char *name, unsigned space, uint64_t offset, uint64_t length);
/*
 * Fields follow with aml_field_entry(); access 1 byte, 2 word, 3 dword; ends with aml_end(). The other bits of what is
 * written keep their value, unless AML_WRITE_AS_ZEROS is in access.
 */
enum { AML_WRITE_AS_ZEROS = 2 << 5 };
void aml_field(Aml *a, const char *region, unsigned access);
void aml_field_entry(Aml *a, const char *name, unsigned bits); /* NULL: a gap */

/* Resource templates: begin, descriptors, end. */
void aml_resources(Aml *a);
void aml_resources_end(Aml *a);
void aml_res_io(Aml *a, uint16_t min, uint16_t max, uint8_t align, uint8_t length);
void aml_res_irq(Aml *a, uint16_t mask);
void aml_res_dma(Aml *a, uint8_t mask);
void aml_res_irq_extended(Aml *a, const uint32_t *irqs, unsigned count); /* level, high, shared */
void aml_res_memory32(Aml *a, uint32_t base, uint32_t length, bool writable);
enum { AML_RES_MEMORY = 0, AML_RES_IO = 1, AML_RES_BUS = 2 };
void aml_res_word(Aml *a, unsigned type, uint16_t min, uint16_t max);
void aml_res_dword(Aml *a, unsigned type, uint32_t min, uint32_t max, bool cacheable);
void aml_res_qword(Aml *a, unsigned type, uint64_t min, uint64_t max, bool cacheable);

/* Opcodes for aml_op(). */
enum {
    AML_ZERO = 0x00, AML_ONE = 0x01, AML_NAME = 0x08, AML_LOCAL0 = 0x60, AML_LOCAL1 = 0x61, AML_LOCAL2 = 0x62,
    AML_ARG0 = 0x68, AML_ARG1 = 0x69, AML_ARG2 = 0x6a, AML_ARG3 = 0x6b, AML_ARG4 = 0x6c, AML_STORE = 0x70, AML_ADD = 0x72, AML_SUBTRACT = 0x74,
    AML_INCREMENT = 0x75, AML_SHIFT_LEFT = 0x79, AML_AND = 0x7b, AML_OR = 0x7d, AML_NOTIFY = 0x86, AML_INDEX = 0x88,
    AML_CREATE_DWORD_FIELD = 0x8a, AML_LAND = 0x90, AML_LOR = 0x91, AML_LNOT = 0x92, AML_LEQUAL = 0x93, AML_LGREATER = 0x94,
    AML_LLESS = 0x95, AML_RETURN = 0xa4, AML_ONES = 0xff, AML_MUTEX = 0x5b01, AML_ACQUIRE = 0x5b23, AML_RELEASE = 0x5b27,
};

#endif
