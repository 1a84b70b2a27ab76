#include "block/latency.h"

enum { BOUNDARIES_MAX = 1024 };

static MUST_USE Error *check(const Value *boundaries)
{
    int64_t before = 0, at;

    if (value_length(boundaries) == 0 || value_length(boundaries) > BOUNDARIES_MAX) {
        return error_new("a histogram has 1 to %d boundaries", BOUNDARIES_MAX);
    }
    for (size_t n = 0; n < value_length(boundaries); n++, before = at) {
        if (!value_get_int(value_at(boundaries, n), &at) || at <= before) {
            return error_new("boundaries are nanoseconds above 0, each larger than the one before it");
        }
    }
    return NULL;
}

Error *latency_set(LatencyHistogram *histogram, const Value *boundaries)
{
    if (boundaries) {
        TRY(check(boundaries));
    }
    g_free(histogram->boundary);
    g_free(histogram->bin);
    *histogram = (LatencyHistogram) { 0 };
    if (boundaries) {
        histogram->count = value_length(boundaries);
        histogram->boundary = g_new(int64_t, histogram->count);
        histogram->bin = g_new0(uint64_t, histogram->count + 1);
        for (size_t n = 0; n < histogram->count; n++) {
            value_get_int(value_at(boundaries, n), &histogram->boundary[n]);
        }
    }
    return NULL;
}

void latency_note(LatencyHistogram *histogram, int64_t ns)
{
    size_t low = 0, high = histogram->count;

    if (!high) {
        return;
    }
    while (low < high) { /* the first boundary above it */
        size_t middle = low + (high - low) / 2;
        if (histogram->boundary[middle] <= ns) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    histogram->bin[low]++;
}

Value *latency_value(const LatencyHistogram *histogram)
{
    if (!histogram->count) {
        return NULL;
    }
    Value *value = value_dict(), *boundaries = value_list(), *bins = value_list();
    for (size_t n = 0; n < histogram->count; n++) {
        value_append(boundaries, value_int(histogram->boundary[n]));
    }
    for (size_t n = 0; n <= histogram->count; n++) {
        value_append(bins, value_uint(histogram->bin[n]));
    }
    value_put(value, "boundaries", boundaries);
    value_put(value, "bins", bins);
    return value;
}
