/* What the files of the NBD client share. */
#ifndef OSTRICH_BLOCK_NBD_CLIENT_PRIV_H
#define OSTRICH_BLOCK_NBD_CLIENT_PRIV_H

#include "block/nbd/client.h"

/* How replies may look: what the client can use at best. */
typedef enum NbdForm { NBD_FORM_SIMPLE, NBD_FORM_STRUCTURED, NBD_FORM_EXTENDED } NbdForm;
/* Up to the transmission phase. info is empty on entry, and on failure. */
Error *nbd_negotiate_co(IoStream *stream, const TlsUse *tls, NbdForm form, const char *export,
                        const char *context, NbdInfo *info) MUST_USE;

#endif
