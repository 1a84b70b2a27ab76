#include "firmware/aml.h"

#include <string.h>

#include "base/endian.h"

void aml_init(Aml *a, GByteArray *out)
{
    a->out = out;
    a->open = g_array_new(FALSE, FALSE, sizeof(guint));
}

void aml_fini(Aml *a)
{
    assert(a->open->len == 0);
    g_array_unref(a->open);
}

void aml_byte(Aml *a, uint8_t byte)
{
    g_byte_array_append(a->out, &byte, 1);
}

void aml_bytes(Aml *a, const void *bytes, size_t length)
{
    g_byte_array_append(a->out, bytes, (guint)length);
}

static void put_le(Aml *a, uint64_t value, unsigned size)
{
    uint8_t bytes[8];
    st64_le(bytes, value);
    aml_bytes(a, bytes, size);
}

void aml_op(Aml *a, unsigned opcode)
{
    if (opcode > 0xff) {
        aml_byte(a, (uint8_t)(opcode >> 8));
    }
    aml_byte(a, (uint8_t)opcode);
}

/* --- lengths --- */

static void open_package(Aml *a)
{
    guint at = a->out->len;
    g_array_append_val(a->open, at);
}

static void insert_bytes(GByteArray *out, guint at, const uint8_t *bytes, guint length)
{
    guint tail = out->len - at;
    g_byte_array_set_size(out, out->len + length);
    memmove(out->data + at + length, out->data + at, tail);
    memcpy(out->data + at, bytes, length);
}

/* PkgLength counts its own bytes: 6 bits in one byte, else 4 bits and 8 more a byte. */
static unsigned encode_length(uint8_t bytes[4], guint body)
{
    if (body + 1 <= 0x3f) {
        bytes[0] = (uint8_t)(body + 1);
        return 1;
    }
    unsigned extra = body + 2 <= 0xfff ? 1 : body + 3 <= 0xfffff ? 2 : 3;
    guint total = body + 1 + extra;
    bytes[0] = (uint8_t)(extra << 6 | (total & 0xf));
    for (unsigned i = 0; i < extra; i++) {
        bytes[i + 1] = (uint8_t)(total >> (4 + 8 * i));
    }
    return extra + 1;
}

void aml_end(Aml *a)
{
    uint8_t length[4];
    guint at = g_array_index(a->open, guint, a->open->len - 1);
    g_array_set_size(a->open, a->open->len - 1);
    insert_bytes(a->out, at, length, encode_length(length, a->out->len - at));
}

/* --- names and constants --- */

static void put_segment(Aml *a, const char *text, size_t length)
{
    char segment[4] = { '_', '_', '_', '_' };
    assert(length >= 1 && length <= 4);
    memcpy(segment, text, length);
    aml_bytes(a, segment, 4);
}

void aml_path(Aml *a, const char *path)
{
    while (*path == '\\' || *path == '^') {
        aml_byte(a, (uint8_t)*path++);
    }
    g_auto(GStrv) segments = g_strsplit(path, ".", -1);
    guint count = g_strv_length(segments);
    if (count == 0) {
        aml_byte(a, 0); /* the root itself */
    } else if (count == 2) {
        aml_byte(a, 0x2e);
    } else if (count > 2) {
        aml_byte(a, 0x2f);
        aml_byte(a, (uint8_t)count);
    }
    for (guint i = 0; i < count; i++) {
        put_segment(a, segments[i], strlen(segments[i]));
    }
}

void aml_int(Aml *a, uint64_t value)
{
    if (value <= 1) {
        aml_byte(a, (uint8_t)value);
    } else if (value <= 0xff) {
        aml_byte(a, 0x0a);
        put_le(a, value, 1);
    } else if (value <= 0xffff) {
        aml_byte(a, 0x0b);
        put_le(a, value, 2);
    } else if (value <= 0xffffffff) {
        aml_byte(a, 0x0c);
        put_le(a, value, 4);
    } else {
        aml_byte(a, 0x0e);
        put_le(a, value, 8);
    }
}

void aml_string(Aml *a, const char *text)
{
    aml_byte(a, 0x0d);
    aml_bytes(a, text, strlen(text) + 1);
}

/* Three letters in five bits each, four hex digits; stored high byte first. */
void aml_eisaid(Aml *a, const char *id)
{
    uint32_t value = (uint32_t)(id[0] - 0x40) << 26 | (uint32_t)(id[1] - 0x40) << 21 | (uint32_t)(id[2] - 0x40) << 16;
    for (int i = 0; i < 4; i++) {
        value |= (uint32_t)g_ascii_xdigit_value(id[3 + i]) << (12 - 4 * i);
    }
    aml_byte(a, 0x0c);
    put_le(a, GUINT32_SWAP_LE_BE(value), 4);
}

/* --- things with a body --- */

void aml_scope(Aml *a, const char *path)
{
    aml_byte(a, 0x10);
    open_package(a);
    aml_path(a, path);
}

void aml_device(Aml *a, const char *name)
{
    aml_op(a, 0x5b82);
    open_package(a);
    aml_path(a, name);
}

void aml_method(Aml *a, const char *name, unsigned args, bool serialized)
{
    aml_byte(a, 0x14);
    open_package(a);
    aml_path(a, name);
    aml_byte(a, (uint8_t)(args | (serialized ? 8 : 0)));
}

void aml_package(Aml *a, unsigned elements)
{
    aml_byte(a, 0x12);
    open_package(a);
    aml_byte(a, (uint8_t)elements);
}

void aml_if(Aml *a)
{
    aml_byte(a, 0xa0);
    open_package(a);
}

void aml_else(Aml *a)
{
    aml_byte(a, 0xa1);
    open_package(a);
}

void aml_while(Aml *a)
{
    aml_byte(a, 0xa2);
    open_package(a);
}

void aml_buffer(Aml *a, const void *bytes, size_t length)
{
    aml_byte(a, 0x11);
    open_package(a);
    aml_int(a, length);
    aml_bytes(a, bytes, length);
    aml_end(a);
}

void aml_name(Aml *a, const char *name)
{
    aml_byte(a, AML_NAME);
    aml_path(a, name);
}

void aml_name_int(Aml *a, const char *name, uint64_t value)
{
    aml_name(a, name);
    aml_int(a, value);
}

void aml_name_string(Aml *a, const char *name, const char *text)
{
    aml_name(a, name);
    aml_string(a, text);
}

void aml_name_eisaid(Aml *a, const char *name, const char *id)
{
    aml_name(a, name);
    aml_eisaid(a, id);
}

void aml_return_int(Aml *a, uint64_t value)
{
    aml_byte(a, AML_RETURN);
    aml_int(a, value);
}

void aml_store(Aml *a, unsigned source, const char *name)
{
    aml_op(a, AML_STORE);
    aml_op(a, source);
    aml_path(a, name);
}

void aml_store_int(Aml *a, uint64_t value, const char *name)
{
    aml_op(a, AML_STORE);
    aml_int(a, value);
    aml_path(a, name);
}

void aml_set_local0(Aml *a, uint64_t value)
{
    aml_op(a, AML_STORE);
    aml_int(a, value);
    aml_op(a, AML_LOCAL0);
}

void aml_mutex(Aml *a, const char *name)
{
    aml_op(a, AML_MUTEX);
    aml_path(a, name);
    aml_byte(a, 0);
}

void aml_acquire(Aml *a, const char *mutex)
{
    aml_op(a, AML_ACQUIRE);
    aml_path(a, mutex);
    aml_byte(a, 0xff);
    aml_byte(a, 0xff);
}

void aml_release(Aml *a, const char *mutex)
{
    aml_op(a, AML_RELEASE);
    aml_path(a, mutex);
}

void aml_op_region(Aml *a, const char *name, unsigned space, uint64_t offset, uint64_t length)
{
    aml_op(a, 0x5b80);
    aml_path(a, name);
    aml_byte(a, (uint8_t)space);
    aml_int(a, offset);
    aml_int(a, length);
}

void aml_field(Aml *a, const char *region, unsigned access)
{
    aml_op(a, 0x5b81);
    open_package(a);
    aml_path(a, region);
    aml_byte(a, (uint8_t)access); /* no lock */
}

void aml_field_entry(Aml *a, const char *name, unsigned bits)
{
    uint8_t length[4];
    if (name) {
        put_segment(a, name, strlen(name));
    } else {
        aml_byte(a, 0);
    }
    /* The same form as a PkgLength, but it counts bits and not itself. */
    if (bits <= 0x3f) {
        aml_byte(a, (uint8_t)bits);
    } else {
        unsigned extra = bits <= 0xfff ? 1 : bits <= 0xfffff ? 2 : 3;
        length[0] = (uint8_t)(extra << 6 | (bits & 0xf));
        for (unsigned i = 0; i < extra; i++) {
            length[i + 1] = (uint8_t)(bits >> (4 + 8 * i));
        }
        aml_bytes(a, length, extra + 1);
    }
}

/* --- resource templates: a buffer whose size is known at the end --- */

void aml_resources(Aml *a)
{
    aml_byte(a, 0x11);
    open_package(a);
    open_package(a); /* where the buffer's size goes */
}

void aml_resources_end(Aml *a)
{
    aml_byte(a, 0x79); /* end tag */
    aml_byte(a, 0);    /* checksum is not used */
    guint at = g_array_index(a->open, guint, a->open->len - 1);
    uint8_t size[3] = { 0x0b };
    st16_le(size + 1, (uint16_t)(a->out->len - at));
    g_array_set_size(a->open, a->open->len - 1);
    insert_bytes(a->out, at, size, sizeof(size));
    aml_end(a);
}

void aml_res_io(Aml *a, uint16_t min, uint16_t max, uint8_t align, uint8_t length)
{
    aml_byte(a, 0x47);
    aml_byte(a, 1); /* 16-bit decode */
    put_le(a, min, 2);
    put_le(a, max, 2);
    aml_byte(a, align);
    aml_byte(a, length);
}

void aml_res_irq(Aml *a, uint16_t mask)
{
    aml_byte(a, 0x22);
    put_le(a, mask, 2);
}

void aml_res_dma(Aml *a, uint8_t mask)
{
    aml_byte(a, 0x2a);
    aml_byte(a, mask);
    aml_byte(a, 0); /* 8 bit, compatibility timing */
}

void aml_res_irq_extended(Aml *a, const uint32_t *irqs, unsigned count)
{
    aml_byte(a, 0x89);
    put_le(a, 2 + 4 * count, 2);
    aml_byte(a, 0x09); /* consumer, level, active high, shared */
    aml_byte(a, (uint8_t)count);
    for (unsigned i = 0; i < count; i++) {
        put_le(a, irqs[i], 4);
    }
}

void aml_res_memory32(Aml *a, uint32_t base, uint32_t length, bool writable)
{
    aml_byte(a, 0x86);
    put_le(a, 9, 2);
    aml_byte(a, writable);
    put_le(a, base, 4);
    put_le(a, length, 4);
}

/* Address space descriptors: general flags say that minimum and maximum are fixed. */
static void res_space(Aml *a, uint8_t tag, unsigned size, unsigned type, uint8_t specific, uint64_t min,
                      uint64_t max)
{
    aml_byte(a, tag);
    put_le(a, 3 + 5 * size, 2);
    aml_byte(a, (uint8_t)type);
    aml_byte(a, 0x0c);
    aml_byte(a, specific);
    put_le(a, 0, size); /* granularity */
    put_le(a, min, size);
    put_le(a, max, size);
    put_le(a, 0, size); /* translation */
    put_le(a, max - min + 1, size);
}

static uint8_t specific_flags(unsigned type, bool cacheable)
{
    return type == AML_RES_IO ? 3 : type == AML_RES_MEMORY ? (cacheable ? 3 : 1) : 0;
}

void aml_res_word(Aml *a, unsigned type, uint16_t min, uint16_t max)
{
    res_space(a, 0x88, 2, type, specific_flags(type, false), min, max);
}

void aml_res_dword(Aml *a, unsigned type, uint32_t min, uint32_t max, bool cacheable)
{
    res_space(a, 0x87, 4, type, specific_flags(type, cacheable), min, max);
}

void aml_res_qword(Aml *a, unsigned type, uint64_t min, uint64_t max, bool cacheable)
{
    res_space(a, 0x8a, 8, type, specific_flags(type, cacheable), min, max);
}
