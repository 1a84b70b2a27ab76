/*
 * Filters on the frames of a back end: -object filter-dump, filter-mirror, filter-redirector, filter-buffer. They stand in a
 * row: what the back end sends passes from the head to the tail, what is sent to it from the tail to the head.
 *
 * Threads: the machine lock.
 */
#ifndef OSTRICH_NET_FILTER_H
#define OSTRICH_NET_FILTER_H

#include "chardev/chardev.h"
#include "net/net.h"
#include "object/object.h"

typedef enum NetFilterQueue { NET_FILTER_ALL, NET_FILTER_RX, NET_FILTER_TX } NetFilterQueue;

/* What filters embed first. */
typedef struct NetFilter {
    Object object;
    char *netdev, *position, *insert;
    int queue; /* NetFilterQueue: the directions it sees, from the back end's view */
    bool on;
    NetPort *port; /* NULL until complete */
    ListNode node;
} NetFilter;

typedef struct NetFilterType {
    ObjectType object;
    /* A frame that the back end sends (or is sent). True: the filter has it now, and may pass it on later. */
    bool (*take)(NetFilter *filter, bool sent, const uint8_t *frame, size_t length);
    void (*status_changed)(NetFilter *filter); /* may be NULL */
} NetFilterType;
extern const ObjectType net_filter_object_type;

/* First in complete() and last in finalize() of a filter. */
Error *net_filter_attach(NetFilter *filter) MUST_USE;
void net_filter_detach(NetFilter *filter); /* accepts one that was not attached */
/* Hands a frame to what comes behind the filter. */
void net_filter_pass(NetFilter *filter, bool sent, const uint8_t *frame, size_t length);

/* For net.c: whether a filter took the frame. */
bool net_filters_take(NetPort *from, NetPort *to, const uint8_t *frame, size_t length);

#endif
