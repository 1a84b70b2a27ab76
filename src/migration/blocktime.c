/* What CPUs wait for pages; see blocktime.h. */
#include "migration/blocktime.h"

#include <pthread.h>

#include "core/vm/vcpu.h"
#include "event/clock.h"

typedef struct CpuWait {
    pid_t thread;
    const RamBlock *block; /* compared only; NULL: it waits for nothing */
    uint64_t page;
    int64_t since, total; /* ns */
} CpuWait;

struct Blocktime {
    Machine *machine;
    pthread_mutex_t mutex;
    guint waiting;
    int64_t all_since, all_total; /* ns, of all CPUs at once */
    guint count;
    CpuWait cpus[];
};

Blocktime *blocktime_new(Machine *machine)
{
    Blocktime *blocktime = g_malloc0(sizeof(Blocktime) + machine->vcpus->len * sizeof(CpuWait));

    blocktime->machine = machine;
    blocktime->count = machine->vcpus->len;
    pthread_mutex_init(&blocktime->mutex, NULL);
    for (guint n = 0; n < blocktime->count; n++) {
        blocktime->cpus[n].thread = ((Vcpu *)machine->vcpus->pdata[n])->thread_id;
    }
    return blocktime;
}

void blocktime_free(Blocktime *blocktime)
{
    if (blocktime) {
        pthread_mutex_destroy(&blocktime->mutex);
        g_free(blocktime);
    }
}

static int64_t now_of(const Blocktime *blocktime)
{
    return clock_now(blocktime->machine->clocks, CLOCK_REALTIME_NS);
}

void blocktime_wait(Blocktime *blocktime, pid_t thread, const RamBlock *block, uint64_t page)
{
    int64_t now = now_of(blocktime);

    pthread_mutex_lock(&blocktime->mutex);
    for (guint n = 0; n < blocktime->count; n++) {
        CpuWait *cpu = &blocktime->cpus[n];
        if (cpu->thread != thread || cpu->block) {
            continue;
        }
        cpu->block = block;
        cpu->page = page;
        cpu->since = now;
        if (++blocktime->waiting == blocktime->count) {
            blocktime->all_since = now;
        }
    }
    pthread_mutex_unlock(&blocktime->mutex);
}

void blocktime_came(Blocktime *blocktime, const RamBlock *block, uint64_t first, uint64_t count)
{
    pthread_mutex_lock(&blocktime->mutex);
    int64_t now = blocktime->waiting ? now_of(blocktime) : 0;
    for (guint n = 0; n < blocktime->count && blocktime->waiting; n++) {
        CpuWait *cpu = &blocktime->cpus[n];
        if (cpu->block != block || cpu->page - first >= count) {
            continue;
        }
        cpu->block = NULL;
        cpu->total += now - cpu->since;
        if (blocktime->waiting-- == blocktime->count) {
            blocktime->all_total += now - blocktime->all_since;
        }
    }
    pthread_mutex_unlock(&blocktime->mutex);
}

void blocktime_show(Blocktime *blocktime, Value *info)
{
    Value *list = value_list();

    pthread_mutex_lock(&blocktime->mutex);
    value_put_int(info, "postcopy-blocktime", blocktime->all_total / NS_PER_MS);
    for (guint n = 0; n < blocktime->count; n++) {
        value_append(list, value_int(blocktime->cpus[n].total / NS_PER_MS));
    }
    pthread_mutex_unlock(&blocktime->mutex);
    value_put(info, "postcopy-vcpu-blocktime", list);
}
