/* The cache of tables. Pages are few, so that opening an image of any claimed size is cheap. */
#include "block/format/meta.h"

#include <errno.h>
#include <string.h>

enum { PAGE = 4096, SECTOR = 512, MAX_PAGES = 1024 };

struct MetaPage {
    uint64_t offset;
    uint8_t dirty; /* a bit a sector: next to a table there may be data that must not be touched */
    ListNode node;
    uint8_t data[PAGE];
};

void meta_init(MetaCache *c, BlockNode *file)
{
    *c = (MetaCache) { .file = file };
    c->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    list_init(&c->used);
    co_mutex_init(&c->lock);
}

void meta_fini(MetaCache *c)
{
    if (c->pages) {
        g_hash_table_unref(c->pages);
        c->pages = NULL;
    }
}

static void drop_page(MetaCache *c, MetaPage *page)
{
    c->dirty -= page->dirty != 0;
    c->count--;
    list_remove(&page->node);
    g_hash_table_remove(c->pages, &page->offset);
}

/* The sectors that were changed, in runs. */
static int write_page_co(MetaCache *c, MetaPage *page)
{
    uint8_t dirty = page->dirty;
    int ret = 0;

    page->dirty = 0;
    c->dirty--;
    for (unsigned from = 0, to; from < PAGE / SECTOR && ret == 0; from = to + 1) {
        for (to = from; to < PAGE / SECTOR && (dirty & BIT(to)); to++) {
        }
        if (to > from) {
            ret = node_pwrite_co(c->file, page->offset + from * SECTOR, (to - from) * SECTOR,
                                 page->data + from * SECTOR, 0);
        }
    }
    if (ret < 0) {
        c->dirty += !page->dirty;
        page->dirty |= dirty;
    }
    return ret;
}

/* With the lock held. */
static int write_back_locked_co(MetaCache *c)
{
    if (!c->dirty) {
        return 0;
    }
    int ret = node_flush_co(c->file);
    while (ret == 0 && c->dirty) {
        MetaPage *found = NULL;
        LIST_FOREACH (page, &c->used, MetaPage, node) {
            if (page->dirty) {
                found = page;
                break;
            }
        }
        ret = write_page_co(c, found);
    }
    return ret;
}

int meta_write_back_co(MetaCache *c)
{
    co_mutex_lock(&c->lock);
    int ret = write_back_locked_co(c);
    co_mutex_unlock(&c->lock);
    return ret;
}

int meta_flush_co(MetaCache *c)
{
    int ret = meta_write_back_co(c);
    return ret < 0 ? ret : node_flush_co(c->file);
}

static int make_room_co(MetaCache *c)
{
    if (c->count < MAX_PAGES) {
        return 0;
    }
    MetaPage *oldest = LIST_FIRST(&c->used, MetaPage, node);
    int ret = oldest->dirty ? write_back_locked_co(c) : 0;
    if (ret == 0) {
        drop_page(c, oldest);
    }
    return ret;
}

static int load_page_co(MetaCache *c, uint64_t offset, MetaPage **ret_page)
{
    int ret = make_room_co(c);
    if (ret < 0) {
        return ret;
    }
    MetaPage *page = g_new0(MetaPage, 1);
    page->offset = offset;
    uint64_t inside = MIN((uint64_t)PAGE, c->file->size - MIN(offset, c->file->size));
    ret = inside ? node_pread_co(c->file, offset, inside, page->data) : 0;
    if (ret < 0) {
        g_free(page);
        return ret;
    }
    g_hash_table_insert(c->pages, &page->offset, page);
    list_append(&c->used, &page->node);
    c->count++;
    *ret_page = page;
    return 0;
}

static MetaPage *find_page(MetaCache *c, uint64_t offset)
{
    MetaPage *page = g_hash_table_lookup(c->pages, &offset);
    if (page && page->node.next != &c->used.head) {
        list_remove(&page->node);
        list_append(&c->used, &page->node);
    }
    return page;
}

/* With the lock held. */
static int get_page_co(MetaCache *c, uint64_t offset, MetaPage **ret_page)
{
    *ret_page = find_page(c, offset);
    return *ret_page ? 0 : load_page_co(c, offset, ret_page);
}

int meta_get_co(MetaCache *c, uint64_t offset, void *value, size_t size)
{
    uint64_t base = ALIGN_DOWN(offset, (uint64_t)PAGE);
    MetaPage *page = find_page(c, base);
    int ret = 0;

    if (!page) {
        co_mutex_lock(&c->lock);
        ret = get_page_co(c, base, &page);
        if (ret == 0) {
            memcpy(value, page->data + (offset - base), size);
        }
        co_mutex_unlock(&c->lock);
        return ret;
    }
    memcpy(value, page->data + (offset - base), size);
    return 0;
}

int meta_put_co(MetaCache *c, uint64_t offset, const void *value, size_t size)
{
    uint64_t base = ALIGN_DOWN(offset, (uint64_t)PAGE);
    MetaPage *page;

    co_mutex_lock(&c->lock);
    int ret = get_page_co(c, base, &page);
    if (ret == 0) {
        memcpy(page->data + (offset - base), value, size);
        c->dirty += !page->dirty;
        page->dirty |= (uint8_t)BIT((offset - base) / SECTOR);
    }
    co_mutex_unlock(&c->lock);
    return ret;
}

void meta_forget(MetaCache *c, uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = ALIGN_DOWN(offset, (uint64_t)PAGE); at < offset + bytes; at += PAGE) {
        MetaPage *page = g_hash_table_lookup(c->pages, &at);
        if (page) {
            drop_page(c, page);
        }
    }
}
