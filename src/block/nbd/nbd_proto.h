/*
 * The numbers of the NBD protocol, as its specification (proto.md of the NetworkBlockDevice
 * project) names them.
 */
#ifndef OSTRICH_BLOCK_NBD_PROTO_H
#define OSTRICH_BLOCK_NBD_PROTO_H

#include "base/base.h"

#define NBD_MAGIC                0x4e42444d41474943ull
#define NBD_OLD_MAGIC            0x00420281861253ull
#define NBD_OPT_MAGIC            0x49484156454f5054ull
#define NBD_REP_MAGIC            0x0003e889045565a9ull
#define NBD_REQUEST_MAGIC        0x25609513u
#define NBD_EXTENDED_MAGIC       0x21e41c71u
#define NBD_SIMPLE_MAGIC         0x67446698u
#define NBD_STRUCTURED_MAGIC     0x668e33efu
#define NBD_EXTENDED_REPLY_MAGIC 0x6e8a278cu
#define NBD_DEFAULT_PORT         "10809"

enum { NBD_FLAG_FIXED_NEWSTYLE = 1, NBD_FLAG_NO_ZEROES = 2 }; /* of the handshake */

enum {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_ERROR(n)            (BIT(31) + (n))
#define NBD_REP_ACK                 1u
#define NBD_REP_SERVER              2u
#define NBD_REP_INFO                3u
#define NBD_REP_META_CONTEXT        4u
#define NBD_REP_ERR_UNSUP           NBD_REP_ERROR(1)
#define NBD_REP_ERR_POLICY          NBD_REP_ERROR(2)
#define NBD_REP_ERR_INVALID         NBD_REP_ERROR(3)
#define NBD_REP_ERR_PLATFORM        NBD_REP_ERROR(4)
#define NBD_REP_ERR_TLS_REQD        NBD_REP_ERROR(5)
#define NBD_REP_ERR_UNKNOWN         NBD_REP_ERROR(6)
#define NBD_REP_ERR_SHUTDOWN        NBD_REP_ERROR(7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD NBD_REP_ERROR(8)
#define NBD_REP_ERR_TOO_BIG         NBD_REP_ERROR(9)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERROR(10)

enum { NBD_INFO_EXPORT = 0, NBD_INFO_NAME = 1, NBD_INFO_DESCRIPTION = 2, NBD_INFO_BLOCK_SIZE = 3 };

enum { /* transmission flags */
       NBD_FLAG_HAS_FLAGS = BIT(0),
       NBD_FLAG_READ_ONLY = BIT(1),
       NBD_FLAG_SEND_FLUSH = BIT(2),
       NBD_FLAG_SEND_FUA = BIT(3),
       NBD_FLAG_ROTATIONAL = BIT(4),
       NBD_FLAG_SEND_TRIM = BIT(5),
       NBD_FLAG_SEND_WRITE_ZEROES = BIT(6),
       NBD_FLAG_SEND_DF = BIT(7),
       NBD_FLAG_CAN_MULTI_CONN = BIT(8),
       NBD_FLAG_SEND_RESIZE = BIT(9),
       NBD_FLAG_SEND_CACHE = BIT(10),
       NBD_FLAG_SEND_FAST_ZERO = BIT(11),
       NBD_FLAG_BLOCK_STATUS_PAYLOAD = BIT(12),
};

enum {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

enum {
    NBD_CMD_FLAG_FUA = BIT(0),
    NBD_CMD_FLAG_NO_HOLE = BIT(1),
    NBD_CMD_FLAG_DF = BIT(2),
    NBD_CMD_FLAG_REQ_ONE = BIT(3),
    NBD_CMD_FLAG_FAST_ZERO = BIT(4),
    NBD_CMD_FLAG_PAYLOAD_LEN = BIT(5),
};

enum { NBD_REPLY_FLAG_DONE = 1 };
enum {
    NBD_REPLY_NONE = 0,
    NBD_REPLY_OFFSET_DATA = 1,
    NBD_REPLY_OFFSET_HOLE = 2,
    NBD_REPLY_BLOCK_STATUS = 5,
    NBD_REPLY_BLOCK_STATUS_EXT = 6,
    NBD_REPLY_ERROR = 0x8001,
    NBD_REPLY_ERROR_OFFSET = 0x8002,
};

enum { NBD_STATE_HOLE = BIT(0), NBD_STATE_ZERO = BIT(1) }; /* base:allocation */

enum { /* errors on the wire */
       NBD_EPERM = 1,
       NBD_EIO = 5,
       NBD_ENOMEM = 12,
       NBD_EINVAL = 22,
       NBD_ENOSPC = 28,
       NBD_EOVERFLOW = 75,
       NBD_ENOTSUP = 95,
       NBD_ESHUTDOWN = 108,
};

enum {
    NBD_MAX_BUFFER = 32 << 20, /* bytes of one read or write */
    NBD_MAX_STRING = 4096,     /* names, descriptions, contexts */
    NBD_REQUEST_SIZE = 28,
    NBD_EXTENDED_SIZE = 32,
};

uint32_t nbd_error_to_wire(int err);     /* err: -errno */
int nbd_error_from_wire(uint32_t error); /* -errno */

#endif
