/*
 * What every disk device has: the drive property, block sizes, error policies, cache. Embedded in the
 * device; DISK_CONF_PROPS gives its properties the names that users know.
 */
#ifndef OSTRICH_HW_BLOCK_DISK_CONF_H
#define OSTRICH_HW_BLOCK_DISK_CONF_H

#include "block/backend.h"
#include "core/vm/machine.h"

typedef enum DiskOnError { DISK_ERROR_AUTO, DISK_ERROR_REPORT, DISK_ERROR_IGNORE, DISK_ERROR_ENOSPC, DISK_ERROR_STOP } DiskOnError;
extern const EnumName disk_on_error_names[];

typedef struct DiskConf {
    DriveRef drive;
    uint64_t logical_block_size, physical_block_size; /* 0 until disk_conf_attach(): by the back end */
    uint64_t min_io_size, opt_io_size, discard_granularity;
    int backend_defaults, write_cache, account_invalid, account_failed; /* OnOffAuto */
    int rerror, werror; /* DiskOnError */
    bool share_rw;
} DiskConf;

/* t: the device's struct, m: its DiskConf, d: its Device. */
#define DISK_CONF_PROPS(t, m, d)                                                                   \
    PROP_DRIVE("drive", t, m.drive, .help = "Block node or -drive that holds the data"),      \
    PROP_SIZE("logical_block_size", t, m.logical_block_size, 0, .help = "512 to 2097152 bytes, a power of two"),   \
    PROP_SIZE("physical_block_size", t, m.physical_block_size, 0, .help = "512 to 2097152 bytes, a power of two"), \
    PROP_SIZE("min_io_size", t, m.min_io_size, 0),                                                 \
    PROP_SIZE("opt_io_size", t, m.opt_io_size, 0),                                                 \
    PROP_SIZE("discard_granularity", t, m.discard_granularity, UINT32_MAX),                        \
    PROP_ON_OFF_AUTO("backend_defaults", t, m.backend_defaults, AUTO_AUTO),                        \
    PROP_ON_OFF_AUTO("write-cache", t, m.write_cache, AUTO_AUTO),                                  \
    PROP_ON_OFF_AUTO("account-invalid", t, m.account_invalid, AUTO_AUTO),                          \
    PROP_ON_OFF_AUTO("account-failed", t, m.account_failed, AUTO_AUTO),                            \
    PROP_ENUM("rerror", t, m.rerror, disk_on_error_names, DISK_ERROR_AUTO),                        \
    PROP_ENUM("werror", t, m.werror, disk_on_error_names, DISK_ERROR_AUTO),                        \
    PROP_BOOL("share-rw", t, m.share_rw, false),                                                   \
    PROP_("bootindex", prop_i32, t, d.bootindex, .def = -1)

typedef struct DiskTraits {
    const char *part;  /* of the device that its drive is known by, a name below its path; NULL: the device */
    bool optional;     /* may be without a drive (removable media) */
    bool writes;       /* the device can write at all */
    bool read_only_ok; /* and does without when the medium is read-only */
    const BlkDeviceOps *ops;
    void *opaque;
} DiskTraits;

/* Checks sizes, attaches to the drive, applies policies and cache. In plug. */
Error *disk_conf_attach(DiskConf *conf, Device *dev, const DiskTraits *traits) MUST_USE;
/* In unplug; accepts what was never attached. What -drive described goes with its device. */
void disk_conf_detach(DiskConf *conf);
static inline BlockBackend *disk_blk(const DiskConf *conf)
{
    return conf->drive.blk;
}
/* Counts a request that the guest made wrongly, when the policy says that such are counted. */
void disk_conf_count_invalid(DiskConf *conf, bool is_read);

#endif
