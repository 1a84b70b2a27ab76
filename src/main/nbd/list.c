/* qemu-nbd -L: what another server has. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/nbd/client.h"
#include "main/nbd/nbd.h"

typedef struct ListCall {
    NbdProgram *program;
    GPtrArray *infos;
    Error *err;
} ListCall;

static Error *list_steps_co(ListCall *call)
{
    const NbdProgram *p = call->program;
    NbdAddress address;
    IoStream *stream;

    TRY(nbd_program_address(p, &address));
    g_autoptr(TlsKeys) keys = NULL;
    g_autofree char *host = g_strdup(p->tls_hostname ? p->tls_hostname : address.host);
    Error *err = nbd_connect_co(p->loop, &address, &stream);
    nbd_address_clear(&address);
    TRY(err);
    if (p->tls_creds) {
        err = tls_keys_get(block_graph_objects(p->graph), p->tls_creds, false, &keys);
        if (err) {
            stream_free(stream);
            return err;
        }
    }
    TlsUse tls = { .keys = keys, .hostname = host };
    return nbd_list_co(stream, keys ? &tls : NULL, &call->infos);
}

static void list_co(void *opaque)
{
    ListCall *call = opaque;
    call->err = list_steps_co(call);
}

static void print_flags(uint16_t flags)
{
    static const char *const names[] = { NULL,         "readonly", "flush",  "fua",
                                         "rotational", "trim",     "zeroes", "df",
                                         "multi",      "resize",   "cache",  "fast-zero",
                                         "block-status-payload" };
    printf("  flags: 0x%x (", flags);
    for (size_t i = 1; i < ARRAY_SIZE(names); i++) {
        if (flags & BIT(i)) {
            printf(" %s", names[i]);
        }
    }
    printf(" )\n");
}

static void print_info(const NbdInfo *info)
{
    printf(" export: '%s'\n", info->name);
    if (info->description && *info->description) {
        printf("  description: %s\n", info->description);
    }
    if (info->flags & NBD_FLAG_HAS_FLAGS) {
        printf("  size:  %" PRIu64 "\n", info->size);
        print_flags(info->flags);
    }
    if (info->min_block) {
        printf("  min block: %u\n  opt block: %u\n  max block: %u\n", info->min_block,
               info->preferred_block, info->max_block);
    }
    if (info->extended) {
        printf("  transaction size: 64-bit\n");
    }
    if (info->contexts->len) {
        printf("  available meta contexts: %u\n", info->contexts->len);
        for (guint i = 0; i < info->contexts->len; i++) {
            printf("   %s\n", (const char *)g_ptr_array_index(info->contexts, i));
        }
    }
}

int nbd_list_exports(NbdProgram *p)
{
    ListCall call = { .program = p };

    co_run(p->loop, list_co, &call);
    if (call.err) {
        error_report(call.err);
        return EXIT_FAILURE;
    }
    printf("exports available: %u\n", call.infos->len);
    for (guint i = 0; i < call.infos->len; i++) {
        print_info(g_ptr_array_index(call.infos, i));
    }
    g_ptr_array_unref(call.infos);
    return 0;
}
