/* The common part of disk devices: see disk_conf.h. */
#include "hw/block/disk_conf.h"

#include "block/drive.h"

const EnumName disk_on_error_names[] = {
    { "auto", DISK_ERROR_AUTO }, { "report", DISK_ERROR_REPORT }, { "ignore", DISK_ERROR_IGNORE },
    { "enospc", DISK_ERROR_ENOSPC }, { "stop", DISK_ERROR_STOP }, { 0 },
};

static Error *check_size(const char *name, uint64_t size)
{
    if (size != 0 && (size < 512 || size > 2 * MiB || !IS_POW2(size))) {
        return error_new("Property .%s doesn't take value %" G_GUINT64_FORMAT
                         " (it must be a power of two between 512 B and 2 MiB)", name, size);
    }
    return NULL;
}

static Error *settle_sizes(DiskConf *conf)
{
    TRY(check_size("logical_block_size", conf->logical_block_size));
    TRY(check_size("physical_block_size", conf->physical_block_size));
    if (!conf->logical_block_size) {
        conf->logical_block_size = 512;
    }
    if (!conf->physical_block_size) {
        conf->physical_block_size = MAX(512, conf->logical_block_size);
    }
    if (conf->logical_block_size > conf->physical_block_size) {
        return error_new("logical_block_size > physical_block_size not supported");
    }
    if (conf->min_io_size % conf->logical_block_size || conf->opt_io_size % conf->logical_block_size) {
        return error_new("min_io_size and opt_io_size must be multiples of logical_block_size");
    }
    return NULL;
}

static BlkOnError policy_of(int wanted, BlkOnError now)
{
    switch (wanted) {
    case DISK_ERROR_REPORT:
        return BLK_ON_ERROR_REPORT;
    case DISK_ERROR_IGNORE:
        return BLK_ON_ERROR_IGNORE;
    case DISK_ERROR_ENOSPC:
        return BLK_ON_ERROR_ENOSPC;
    case DISK_ERROR_STOP:
        return BLK_ON_ERROR_STOP;
    default:
        return now; /* what -drive said */
    }
}

Error *disk_conf_attach(DiskConf *conf, Device *dev, const DiskTraits *traits)
{
    BlockGraph *graph = machine_service(dev->machine, BLOCK_SERVICE);
    TRY(settle_sizes(conf));
    if (conf->rerror == DISK_ERROR_ENOSPC) {
        return error_new("'rerror' doesn't take value 'enospc' (report, ignore, stop or auto)");
    }
    if (!graph) {
        return error_new("%s: this machine has no block layer", device_label(dev));
    }
    if (!conf->drive.name && !traits->optional) {
        return error_new("%s: drive property not set", device_label(dev));
    }
    g_autofree char *device = object_path(&dev->object);
    g_autofree char *path = traits->part ? g_strconcat(device, "/", traits->part, NULL) : g_strdup(device);
    TRY(drive_ref_attach(&conf->drive, graph, path, traits->ops, traits->opaque, traits->optional,
                         traits->writes, traits->read_only_ok, conf->share_rw));
    BlockBackend *blk = conf->drive.blk;
    blk_set_on_error(blk, policy_of(conf->rerror, blk_on_error(blk, true)),
                     policy_of(conf->werror, blk_on_error(blk, false)));
    if (conf->write_cache != AUTO_AUTO) {
        blk_set_write_cache(blk, conf->write_cache == AUTO_ON);
    }
    return NULL;
}

void disk_conf_detach(DiskConf *conf)
{
    BlockBackend *blk = conf->drive.blk;

    if (blk) {
        Drive *drive = block_drive_of(blk);
        drive_ref_detach(&conf->drive);
        block_drive_free(drive);
    }
}

void disk_conf_count_invalid(DiskConf *conf, bool is_read)
{
    if (conf->account_invalid == AUTO_OFF || !conf->drive.blk) {
        return;
    }
    BlkStats *stats = blk_stats(conf->drive.blk);
    if (is_read) {
        stats->invalid_reads++;
    } else {
        stats->invalid_writes++;
    }
}
