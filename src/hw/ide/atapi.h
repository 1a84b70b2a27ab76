/* Between the packet protocol (atapi.c) and INQUIRY of an ATAPI drive (atapi_inquiry.c). */
#ifndef OSTRICH_HW_IDE_ATAPI_H
#define OSTRICH_HW_IDE_ATAPI_H

#include "hw/ide/ide.h"

/* INQUIRY, which the transport answers for its drive. */
void atapi_inquiry(IdeDrive *drive, const uint8_t *packet);

/* How a command ends. */
void atapi_check(IdeDrive *drive, uint8_t key, uint8_t asc, uint8_t ascq);
/* Sends the first bytes of the buffer, no more than the guest allocated. */
void atapi_reply(IdeDrive *drive, uint32_t length, uint32_t allocated);

#endif
