/*
 * Claims: who does what with a node and what it tolerates from the others.
 *
 * Invariant: for any two edges into a node, what one uses is within what the other shares. An edge
 * whose claims change is checked first; then the node's driver is told the sum (the file driver
 * locks), and the claims of the node's own children follow from it.
 */
#include "block/node_priv.h"

void node_claims_collect(const BlockNode *node, const BlockEdge *except, unsigned *ret_used,
                         unsigned *ret_shared)
{
    unsigned used = 0, shared = CLAIM_ALL;
    LIST_FOREACH (edge, &node->parents, BlockEdge, in_child) {
        if (edge != except) {
            used |= edge->used;
            shared &= edge->shared;
        }
    }
    *ret_used = used;
    *ret_shared = shared;
}

/* "node 'x' (uses node 'y' as 'file' child)"; image tests compare this. */
static char *edge_user(const BlockEdge *edge)
{
    static const char peripheral[] = "/machine/peripheral/";
    const char *name = edge->name;

    if (edge->parent) {
        return g_strdup_printf("node '%s' (uses node '%s' as '%s' child)", edge->parent->name, edge->node->name, name);
    }
    if (g_str_has_prefix(name, peripheral)) {
        name += strlen(peripheral);
    }
    g_autofree char *id = g_strndup(name, strcspn(name, "/"));
    g_autofree char *who = !strcmp(name, "export") || !*id ? g_strdup("an unnamed block device")
                                                           : g_strdup_printf("block device '%s'", id);
    return g_strdup_printf("%s (uses node '%s' as 'root' child)", who, edge->node->name);
}

static char *claim_names(unsigned claims)
{
    GString *out = g_string_new(NULL);
    for (unsigned bit = 0; bit < CLAIM_BITS; bit++) {
        if (claims & BIT(bit)) {
            g_string_append_printf(out, "%s%s", out->len ? ", " : "", block_claim_name(bit));
        }
    }
    return g_string_free(out, FALSE);
}

static const BlockEdge *conflicting_edge(const BlockEdge *edge, unsigned used, unsigned shared)
{
    LIST_FOREACH (other, &edge->node->parents, BlockEdge, in_child) {
        if (other != edge && ((used & ~other->shared) || (other->used & ~shared))) {
            return other;
        }
    }
    return NULL;
}

static Error *check_conflict(const BlockEdge *edge, unsigned used, unsigned shared)
{
    const BlockEdge *other = conflicting_edge(edge, used, shared);
    if (!other) {
        return NULL;
    }
    unsigned refused = used & ~other->shared;
    g_autofree char *claims = claim_names(refused ? refused : other->used & ~shared), *user = edge_user(edge),
                    *holder = edge_user(other);
    return error_new("Permission conflict on node '%s': permissions '%s' are both required by %s and unshared by %s.",
                     edge->node->name, claims, refused ? user : holder, refused ? holder : user);
}

/* What the parent of the edge asks of the child, given what is asked of the parent. */
static void child_claims(const BlockEdge *edge, unsigned *ret_used, unsigned *ret_shared)
{
    const BlockNode *parent = edge->parent;
    unsigned used, shared;

    node_claims_collect(parent, NULL, &used, &shared);
    switch (edge->role) {
    case CHILD_FILTERED:
        *ret_used = used;
        *ret_shared = shared;
        break;
    case CHILD_FILE:
        /* A format writes metadata even when nobody writes data. */
        *ret_used = CLAIM_READ | (parent->read_only ? 0 : CLAIM_WRITE | CLAIM_RESIZE);
        *ret_shared = CLAIM_READ | CLAIM_WRITE_UNCHANGED;
        break;
    case CHILD_BACKING:
        /* Others may write to it only if those who read it through the parent expect that. */
        *ret_used = CLAIM_READ;
        *ret_shared = CLAIM_READ | CLAIM_WRITE_UNCHANGED |
                      (shared & CLAIM_WRITE ? CLAIM_WRITE | CLAIM_RESIZE : 0);
        break;
    }
    *ret_used |= edge->also_used;
    *ret_shared &= ~edge->not_shared;
    if (parent->off) { /* it only reads, whatever others write meanwhile */
        *ret_used &= CLAIM_READ;
        *ret_shared = CLAIM_ALL;
    }
    if (parent->force_share) {
        *ret_shared = CLAIM_ALL;
    }
}

Error *node_claims_update(BlockNode *node)
{
    unsigned used, shared;

    if (!node->open) {
        return NULL; /* done once it is */
    }
    node_claims_collect(node, NULL, &used, &shared);
    if (node->driver->set_claims && !node_is_active(node)) {
        TRY(node->driver->set_claims(node, 0, CLAIM_ALL));
    } else if (node->driver->set_claims) {
        TRY(node->driver->set_claims(node, used, shared));
    }
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        child_claims(edge, &used, &shared);
        if (used == edge->used && shared == edge->shared) {
            continue;
        }
        TRY(check_conflict(edge, used, shared));
        edge->used = used;
        edge->shared = shared;
        TRY(node_claims_update(edge->node));
    }
    return NULL;
}

/* After a failure: the old claims were granted before, so this only gives up what was taken since.
 */
static void claims_go_back(BlockNode *node)
{
    error_free(node_claims_update(node));
}

static void edge_free(BlockEdge *edge)
{
    list_remove(&edge->in_parent);
    list_remove(&edge->in_child);
    g_free(edge->name);
    g_free(edge);
}

static BlockEdge *edge_new(BlockNode *node, const char *name)
{
    BlockEdge *edge = g_new0(BlockEdge, 1);
    edge->node = node;
    edge->name = g_strdup(name);
    edge->shared = CLAIM_ALL;
    list_append(&node->parents, &edge->in_child);
    return edge;
}

Error *node_attach_child(BlockNode *parent, BlockNode *child, const char *name, ChildRole role,
                         BlockEdge **ret_edge)
{
    TRY(node_check_join(parent, child));
    if (child->off && node_is_active(parent)) { /* image tests compare this */
        return error_new("Inactive '%s' can't be a %s child of active '%s'", child->name, name, parent->name);
    }
    BlockEdge *edge = edge_new(child, name);
    unsigned used, shared;

    edge->parent = parent;
    edge->role = role;
    list_append(&parent->children, &edge->in_parent);
    child_claims(edge, &used, &shared);
    Error *err = check_conflict(edge, used, shared);
    if (!err) {
        edge->used = used;
        edge->shared = shared;
        err = node_claims_update(child);
    }
    if (err) {
        edge_free(edge);
        claims_go_back(child);
        return err;
    }
    *ret_edge = edge;
    return NULL;
}

void node_detach_child_co(BlockEdge *edge)
{
    BlockNode *child = edge->node, *parent = edge->parent;
    if (parent->file == edge) {
        parent->file = NULL;
    }
    if (parent->backing == edge) {
        parent->backing = NULL;
    }
    edge_free(edge);
    claims_go_back(child);
    node_unref_co(child);
}

Error *block_root_attach(BlockNode *node, const char *what, unsigned used, unsigned shared,
                         BlockEdge **ret_edge)
{
    BlockEdge *edge = edge_new(node, what);
    Error *err = block_root_set_claims(edge, used, shared);
    if (err) {
        edge_free(edge);
        return err;
    }
    node_ref(node);
    *ret_edge = edge;
    return NULL;
}

void block_root_rename(BlockEdge *edge, const char *what)
{
    g_free(edge->name);
    edge->name = g_strdup(what);
}

Error *block_root_set_claims(BlockEdge *edge, unsigned used, unsigned shared)
{
    BlockNode *node = edge->node;
    unsigned old_used = edge->used, old_shared = edge->shared;

    if ((used & (CLAIM_WRITE | CLAIM_RESIZE)) && node->read_only) {
        return error_new("Block node is read-only");
    }
    if ((used & (CLAIM_WRITE | CLAIM_WRITE_UNCHANGED | CLAIM_RESIZE)) && node->off && !edge->inactive_too) {
        return error_new("Permission '%s' unavailable on inactive node", /* image tests compare this */
                         used & CLAIM_RESIZE ? "resize" : "write");
    }
    TRY(check_conflict(edge, used, shared));
    edge->used = used;
    edge->shared = shared;
    Error *err = node_claims_update(node);
    if (err) {
        edge->used = old_used;
        edge->shared = old_shared;
        claims_go_back(node);
    }
    return err;
}

void block_root_detach(BlockEdge *edge)
{
    if (edge) {
        BlockNode *node = edge->node;
        edge_free(edge);
        claims_go_back(node);
        node_unref(node);
    }
}
