/*
 * Intrusive doubly linked list with a head that knows both ends. A node is in at most one list;
 * list_remove() of a node that is in none does nothing.
 */
#ifndef OSTRICH_BASE_LIST_H
#define OSTRICH_BASE_LIST_H

#include "base/base.h"

typedef struct ListNode {
    struct ListNode *next, *prev;
} ListNode;

typedef struct List {
    ListNode head;
} List;

static inline void list_init(List *list)
{
    list->head.next = list->head.prev = &list->head;
}

static inline bool list_empty(const List *list)
{
    return list->head.next == &list->head;
}

static inline void list_insert_before(ListNode *at, ListNode *node)
{
    node->next = at;
    node->prev = at->prev;
    at->prev->next = node;
    at->prev = node;
}

static inline void list_append(List *list, ListNode *node)
{
    list_insert_before(&list->head, node);
}

static inline void list_prepend(List *list, ListNode *node)
{
    list_insert_before(list->head.next, node);
}

static inline bool list_linked(const ListNode *node)
{
    return node->next != NULL;
}

static inline void list_remove(ListNode *node)
{
    if (node->next) {
        node->next->prev = node->prev;
        node->prev->next = node->next;
        node->next = node->prev = NULL;
    }
}

static inline ListNode *list_pop(List *list)
{
    ListNode *node = list->head.next;
    if (node == &list->head) {
        return NULL;
    }
    list_remove(node);
    return node;
}

#define LIST_FIRST(list, type, member)                                                             \
    (list_empty(list) ? NULL : container_of((list)->head.next, type, member))
#define LIST_FOREACH(it, list, type, member)                                                       \
    for (type *it = container_of((list)->head.next, type, member); &it->member != &(list)->head;   \
         it = container_of(it->member.next, type, member))
/* The current element may be removed in the body. */
#define LIST_FOREACH_SAFE(it, list, type, member)                                                  \
    for (type *it = container_of((list)->head.next, type, member),                                 \
              *it##_next = container_of(it->member.next, type, member);                            \
         &it->member != &(list)->head;                                                             \
         it = it##_next, it##_next = container_of(it->member.next, type, member))

#endif
