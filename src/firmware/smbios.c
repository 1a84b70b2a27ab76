/*
 * SMBIOS 2.8 structures 0 (when asked for), 1, 2 (when asked for), 3, 4, 11, 16, 17, 19, 32, 127 and the 32-bit
 * entry point. Firmware adds its own type 0 when none is given.
 */
#include "firmware/smbios.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "firmware/fw_cfg.h"

/* --- options: -smbios type=N,key=value,... --- */

typedef struct SmbiosKey {
    uint8_t type;
    const char *name;
} SmbiosKey;

static const SmbiosKey known_keys[] = {
    { 0, "vendor" },  { 0, "version" },  { 0, "date" },     { 0, "release" },      { 0, "uefi" },
    { 1, "manufacturer" }, { 1, "product" }, { 1, "version" }, { 1, "serial" },    { 1, "uuid" },
    { 1, "sku" },     { 1, "family" },   { 2, "manufacturer" }, { 2, "product" },  { 2, "version" },
    { 2, "serial" },  { 2, "asset" },    { 2, "location" }, { 3, "manufacturer" }, { 3, "version" },
    { 3, "serial" },  { 3, "asset" },    { 3, "sku" },      { 4, "sock_pfx" },     { 4, "manufacturer" },
    { 4, "version" }, { 4, "serial" },   { 4, "asset" },    { 4, "part" },         { 4, "max-speed" },
    { 4, "current-speed" }, { 11, "value" }, { 11, "path" }, { 17, "loc_pfx" },    { 17, "bank" },
    { 17, "manufacturer" }, { 17, "serial" }, { 17, "asset" }, { 17, "part" },     { 17, "speed" },
};

/* Splits at commas; a doubled comma stands for one. */
static GPtrArray *split_option(const char *argument)
{
    GPtrArray *parts = g_ptr_array_new_with_free_func(g_free);
    GString *part = g_string_new(NULL);
    for (const char *p = argument;; p++) {
        if (*p == ',' && p[1] == ',') {
            g_string_append_c(part, ',');
            p++;
        } else if (*p == ',' || !*p) {
            g_ptr_array_add(parts, g_string_free(part, FALSE));
            if (!*p) {
                return parts;
            }
            part = g_string_new(NULL);
        } else {
            g_string_append_c(part, *p);
        }
    }
}

static int option_type(GPtrArray *parts)
{
    for (guint i = 0; i < parts->len; i++) {
        if (g_str_has_prefix(parts->pdata[i], "type=")) {
            return atoi((char *)parts->pdata[i] + strlen("type="));
        }
    }
    return -1;
}

static Error *check_key(int type, const char *part)
{
    const char *names[ARRAY_SIZE(known_keys) + 1];
    size_t count = 0, length = strcspn(part, "=");
    bool type_known = false;

    for (size_t i = 0; i < ARRAY_SIZE(known_keys); i++) {
        if (known_keys[i].type == type) {
            type_known = true;
            if (strlen(known_keys[i].name) == length && !strncmp(known_keys[i].name, part, length)) {
                return NULL;
            }
            names[count++] = known_keys[i].name;
        }
    }
    names[count] = NULL;
    if (!type_known) {
        return error_new("-smbios: type %d cannot be set; types 0, 1, 2, 3, 4, 11 and 17 can", type);
    }
    g_autofree char *key = g_strndup(part, length);
    const char *near = nearest_in(key, names);
    return near ? error_new("-smbios: type %d has no field '%s', did you mean '%s'?", type, key, near)
                : error_new("-smbios: type %d has no field '%s'", type, key);
}

Error *smbios_check_option(const char *argument)
{
    if (g_str_has_prefix(argument, "file=")) {
        return NULL;
    }
    g_autoptr(GPtrArray) parts = split_option(argument);
    int type = option_type(parts);
    if (type < 0) {
        return error_new("-smbios needs type=N or file=FILE");
    }
    for (guint i = 0; i < parts->len; i++) {
        const char *part = parts->pdata[i];
        if (!g_str_has_prefix(part, "type=")) {
            TRY(check_key(type, part));
        }
    }
    return NULL;
}

/* The last value given for a field, or fallback. Caller frees. */
static char *option_value(Machine *machine, int type, const char *key, const char *fallback)
{
    char *found = NULL;
    for (guint i = 0; i < machine->config->smbios->len; i++) {
        g_autoptr(GPtrArray) parts = split_option(machine->config->smbios->pdata[i]);
        if (option_type(parts) != type) {
            continue;
        }
        for (guint k = 0; k < parts->len; k++) {
            const char *part = parts->pdata[k];
            size_t length = strlen(key);
            if (!strncmp(part, key, length) && part[length] == '=') {
                g_free(found);
                found = g_strdup(part + length + 1);
            }
        }
    }
    return found ? found : g_strdup(fallback);
}

static bool option_given(Machine *machine, int type)
{
    for (guint i = 0; i < machine->config->smbios->len; i++) {
        g_autoptr(GPtrArray) parts = split_option(machine->config->smbios->pdata[i]);
        if (option_type(parts) == type) {
            return true;
        }
    }
    return false;
}

/* --- structures: a formatted part, then numbered strings --- */

typedef struct Builder {
    Machine *machine;
    GByteArray *out;
    guint start;
    uint8_t type;
    GPtrArray *strings;
    unsigned count;
    guint largest;
} Builder;

static void put(Builder *b, uint64_t value, unsigned size)
{
    uint8_t bytes[8];
    st64_le(bytes, value);
    g_byte_array_append(b->out, bytes, size);
}

static void begin(Builder *b, uint8_t type, uint16_t handle)
{
    b->start = b->out->len;
    b->type = type;
    b->strings = g_ptr_array_new_with_free_func(g_free);
    put(b, type, 1);
    put(b, 0, 1);
    put(b, handle, 2);
}

/* A string field: its number, 0 for an empty one. Takes text. */
static void put_string(Builder *b, char *text)
{
    if (!text || !*text || b->strings->len == 255) {
        g_free(text);
        put(b, 0, 1);
    } else {
        g_ptr_array_add(b->strings, text);
        put(b, b->strings->len, 1);
    }
}

static void put_field(Builder *b, const char *key, const char *fallback)
{
    put_string(b, option_value(b->machine, b->type, key, fallback));
}

static void end(Builder *b)
{
    b->out->data[b->start + 1] = (uint8_t)(b->out->len - b->start);
    for (guint i = 0; i < b->strings->len; i++) {
        const char *text = b->strings->pdata[i];
        g_byte_array_append(b->out, (const uint8_t *)text, (guint)strlen(text) + 1);
    }
    put(b, 0, b->strings->len ? 1 : 2);
    g_ptr_array_unref(b->strings);
    b->count++;
    b->largest = MAX(b->largest, b->out->len - b->start);
}

static void bios(Builder *b)
{
    unsigned major = 0, minor = 0;
    g_autofree char *release = option_value(b->machine, 0, "release", "0.0");
    g_autofree char *uefi = option_value(b->machine, 0, "uefi", "off");

    begin(b, 0, 0);
    put_field(b, "vendor", "");
    put_field(b, "version", "");
    put(b, 0xe800, 2);
    put_field(b, "date", "");
    put(b, 0, 1);            /* 64 KiB ROM */
    put(b, BIT(3), 8);       /* characteristics are not supported */
    put(b, 0, 1);
    put(b, 0x14 | (!strcmp(uefi, "on") ? 8 : 0), 1); /* targeted content, virtual machine */
    if (sscanf(release, "%u.%u", &major, &minor) != 2) {
        major = minor = 0;
    }
    put(b, major, 1);
    put(b, minor, 1);
    put(b, 0xffff, 2); /* no embedded controller */
    end(b);
}

static Error *system_info(Builder *b, const SmbiosInfo *info)
{
    uint8_t uuid[16];
    g_autofree char *text = option_value(b->machine, 1, "uuid", NULL);

    memcpy(uuid, b->machine->config->uuid.byte, 16);
    if (text) {
        Error *err = parse_uuid(text, uuid);
        if (err) {
            return error_prefix(err, "-smbios type=1: ");
        }
    }
    begin(b, 1, 0x100);
    put_field(b, "manufacturer", info->manufacturer);
    put_field(b, "product", info->product);
    put_field(b, "version", info->version);
    put_field(b, "serial", "");
    /* The first three fields of a UUID are little endian here. */
    put(b, ld32_be(uuid), 4);
    put(b, ld16_be(uuid + 4), 2);
    put(b, ld16_be(uuid + 6), 2);
    g_byte_array_append(b->out, uuid + 8, 8);
    put(b, 6, 1); /* woken by the power switch */
    put_field(b, "sku", "");
    put_field(b, "family", "");
    end(b);
    return NULL;
}

static void base_board(Builder *b, const SmbiosInfo *info)
{
    begin(b, 2, 0x200);
    put_field(b, "manufacturer", info->manufacturer);
    put_field(b, "product", info->product);
    put_field(b, "version", info->version);
    put_field(b, "serial", "");
    put_field(b, "asset", "");
    put(b, 1, 1); /* hosting board */
    put_field(b, "location", "");
    put(b, 0x300, 2);
    put(b, 10, 1); /* motherboard */
    put(b, 0, 1);
    end(b);
}

static void chassis(Builder *b, const SmbiosInfo *info)
{
    begin(b, 3, 0x300);
    put_field(b, "manufacturer", info->manufacturer);
    put(b, 1, 1); /* other */
    put_field(b, "version", info->version);
    put_field(b, "serial", "");
    put_field(b, "asset", "");
    put(b, 3, 1); /* boot-up, power supply, thermal: safe */
    put(b, 3, 1);
    put(b, 3, 1);
    put(b, 2, 1); /* security: unknown */
    put(b, 0, 4);
    put(b, 0, 4); /* height, power cords, contained elements */
    put_field(b, "sku", "");
    end(b);
}

static void processor(Builder *b, const SmbiosInfo *info, unsigned socket)
{
    const MachineConfig *config = b->machine->config;
    g_autofree char *prefix = option_value(b->machine, 4, "sock_pfx", "CPU");
    g_autofree char *max_speed = option_value(b->machine, 4, "max-speed", "2000");
    g_autofree char *speed = option_value(b->machine, 4, "current-speed", "2000");
    unsigned cores = config->cores * config->dies * config->clusters, threads = cores * config->threads;

    begin(b, 4, (uint16_t)(0x400 + socket));
    put_string(b, g_strdup_printf("%s %u", prefix, socket));
    put(b, 3, 1);    /* CPU */
    put(b, 1, 1);    /* family: other */
    put_field(b, "manufacturer", info->manufacturer);
    put(b, info->cpuid_signature, 4);
    put(b, info->cpuid_features, 4);
    put_field(b, "version", info->version);
    put(b, 0, 1);    /* voltage */
    put(b, 0, 2);    /* external clock */
    put(b, (uint64_t)atoi(max_speed), 2);
    put(b, (uint64_t)atoi(speed), 2);
    put(b, 0x41, 1); /* populated, enabled */
    put(b, 1, 1);    /* upgrade: other */
    put(b, 0xffff, 2);
    put(b, 0xffff, 2);
    put(b, 0xffff, 2);
    put_field(b, "serial", "");
    put_field(b, "asset", "");
    put_field(b, "part", "");
    put(b, MIN(cores, 255u), 1);
    put(b, MIN(cores, 255u), 1);
    put(b, MIN(threads, 255u), 1);
    put(b, 2, 2); /* characteristics unknown */
    put(b, 1, 2); /* family 2: other */
    put(b, cores, 2);
    put(b, cores, 2);
    put(b, threads, 2);
    end(b);
}

static Error *oem_strings(Builder *b)
{
    begin(b, 11, 0xe00);
    put(b, 0, 1);
    for (guint i = 0; i < b->machine->config->smbios->len; i++) {
        g_autoptr(GPtrArray) parts = split_option(b->machine->config->smbios->pdata[i]);
        for (guint k = 0; option_type(parts) == 11 && k < parts->len; k++) {
            const char *part = parts->pdata[k];
            if (g_str_has_prefix(part, "value=")) {
                g_ptr_array_add(b->strings, g_strdup(part + strlen("value=")));
            } else if (g_str_has_prefix(part, "path=")) {
                char *content;
                g_autoptr(GError) gerr = NULL;
                if (!g_file_get_contents(part + strlen("path="), &content, NULL, &gerr)) {
                    g_ptr_array_unref(b->strings);
                    return error_new("-smbios type=11: cannot read '%s': %s", part + 5, gerr->message);
                }
                g_ptr_array_add(b->strings, content);
            }
        }
    }
    b->out->data[b->start + 4] = (uint8_t)MIN(b->strings->len, 255u);
    end(b);
    return NULL;
}

static void memory(Builder *b, const SmbiosInfo *info)
{
    uint64_t total = info->ram_below_4g + info->ram_above_4g, stick = 16 * GiB;
    unsigned sticks = (unsigned)((total + stick - 1) / stick);
    g_autofree char *prefix = option_value(b->machine, 17, "loc_pfx", "DIMM");
    g_autofree char *speed = option_value(b->machine, 17, "speed", "0");

    begin(b, 16, 0x1000);
    put(b, 1, 1); /* location: other */
    put(b, 3, 1); /* system memory */
    put(b, 6, 1); /* multi-bit ECC */
    put(b, total < 2048 * GiB ? total / KiB : 0x80000000, 4);
    put(b, 0xfffe, 2);
    put(b, sticks, 2);
    put(b, total < 2048 * GiB ? 0 : total, 8);
    end(b);
    for (unsigned i = 0; i < sticks; i++) {
        uint64_t size = MIN(stick, total - i * stick) / MiB;
        begin(b, 17, (uint16_t)(0x1100 + i));
        put(b, 0x1000, 2);
        put(b, 0xfffe, 2);
        put(b, 0xffffffff, 4); /* total and data width are unknown */
        put(b, MIN(size, (uint64_t)0x7fff), 2);
        put(b, 9, 1); /* DIMM */
        put(b, 0, 1);
        put_string(b, g_strdup_printf("%s %u", prefix, i));
        put_field(b, "bank", "");
        put(b, 7, 1); /* RAM */
        put(b, 2, 2);
        put(b, (uint64_t)atoi(speed), 2);
        put_field(b, "manufacturer", info->manufacturer);
        put_field(b, "serial", "");
        put_field(b, "asset", "");
        put_field(b, "part", "");
        put(b, 0, 1);
        put(b, size >= 0x7fff ? size : 0, 4);
        put(b, (uint64_t)atoi(speed), 2);
        put(b, 0, 6); /* voltages unknown */
        end(b);
    }
}

static void mapped_range(Builder *b, uint16_t handle, uint64_t start, uint64_t size)
{
    if (size == 0) {
        return;
    }
    begin(b, 19, handle);
    bool small = (start + size) / KiB < 0xffffffff;
    put(b, small ? start / KiB : 0xffffffff, 4);
    put(b, small ? (start + size) / KiB - 1 : 0xffffffff, 4);
    put(b, 0x1000, 2);
    put(b, 1, 1);
    put(b, small ? 0 : start, 8);
    put(b, small ? 0 : start + size - 1, 8);
    end(b);
}

static Error *append_files(Builder *b)
{
    for (guint i = 0; i < b->machine->config->smbios->len; i++) {
        const char *argument = b->machine->config->smbios->pdata[i];
        if (!g_str_has_prefix(argument, "file=")) {
            continue;
        }
        g_autofree char *content = NULL;
        g_autoptr(GError) gerr = NULL;
        gsize length;
        if (!g_file_get_contents(argument + strlen("file="), &content, &length, &gerr)) {
            return error_new("-smbios: cannot read '%s': %s", argument + strlen("file="), gerr->message);
        }
        if (length < 6 || (uint8_t)content[1] < 4 || (uint8_t)content[1] > length) {
            return error_new("-smbios: '%s' does not hold an SMBIOS structure", argument + strlen("file="));
        }
        g_byte_array_append(b->out, (const uint8_t *)content, (guint)length);
        b->count++;
        b->largest = MAX(b->largest, (guint)length);
    }
    return NULL;
}

static Error *build_structures(Builder *b, const SmbiosInfo *info)
{
    if (option_given(b->machine, 0)) {
        bios(b);
    }
    TRY(system_info(b, info));
    if (option_given(b->machine, 2)) {
        base_board(b, info);
    }
    chassis(b, info);
    for (unsigned i = 0; i < b->machine->config->sockets; i++) {
        processor(b, info, i);
    }
    if (option_given(b->machine, 11)) {
        TRY(oem_strings(b));
    }
    memory(b, info);
    mapped_range(b, 0x1300, 0, info->ram_below_4g);
    mapped_range(b, 0x1301, 4 * GiB, info->ram_above_4g);
    begin(b, 32, 0x2000);
    put(b, 0, 6);
    put(b, 0, 1); /* no errors detected */
    end(b);
    TRY(append_files(b));
    begin(b, 127, 0x7f00);
    end(b);
    return NULL;
}

/* The firmware places the tables and computes address and checksums. */
static void entry_point(const Builder *b, uint8_t anchor[31])
{
    memset(anchor, 0, 31);
    memcpy(anchor, "_SM_", 4);
    anchor[5] = 31;
    anchor[6] = 2;
    anchor[7] = 8;
    st16_le(anchor + 8, (uint16_t)MIN(b->largest, 0xffffu));
    memcpy(anchor + 16, "_DMI_", 5);
    st16_le(anchor + 22, (uint16_t)b->out->len);
    st16_le(anchor + 28, (uint16_t)b->count);
    anchor[30] = 0x28;
}

Error *smbios_build(Machine *machine, const SmbiosInfo *info)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    Builder builder = { .machine = machine, .out = out };
    uint8_t anchor[31];

    for (guint i = 0; i < machine->config->smbios->len; i++) {
        TRY(smbios_check_option(machine->config->smbios->pdata[i]));
    }
    TRY(build_structures(&builder, info));
    if (out->len > 0xffff) {
        return error_new("-smbios: the tables have %u bytes, 65535 are possible", out->len);
    }
    entry_point(&builder, anchor);
    TRY(fw_cfg_add_file(machine->fw_cfg, "etc/smbios/smbios-tables", out->data, out->len));
    return fw_cfg_add_file(machine->fw_cfg, "etc/smbios/smbios-anchor", anchor, sizeof(anchor));
}
