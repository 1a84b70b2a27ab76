/*
 * -object throttle-group: I/O limits that nodes share. They are given as "limits" (a dictionary, which
 * may be changed while the group is in use) or, when it is made, one by one as "x-iops-total" and so on.
 */
#include <inttypes.h>
#include <string.h>

#include "block/throttle.h"
#include "value/json.h"

typedef struct ThrottleObject {
    Object object;
    ThrottleConfig config;
    ThrottleGroup *group;
    bool has_length; /* the lengths of bursts are no longer 0 */
} ThrottleObject;

enum { FIELD_AVG, FIELD_MAX, FIELD_LENGTH, FIELDS, SIZE_FIELD = THROTTLE_BUCKETS * FIELDS };
static const char *const field_suffix[FIELDS] = { "", "-max", "-max-length" };

/* The numbers of a configuration, counted through: three of each bucket, then iops-size. */
static uint64_t *field_at(ThrottleConfig *config, unsigned i)
{
    ThrottleBucket *b = &config->buckets[MIN(i / FIELDS, THROTTLE_BUCKETS - 1)];
    return i == SIZE_FIELD         ? &config->op_size
           : i % FIELDS == FIELD_AVG ? &b->avg
           : i % FIELDS == FIELD_MAX ? &b->max
                                     : &b->length;
}

static char *field_name(unsigned i)
{
    return i == SIZE_FIELD ? g_strdup("iops-size")
                           : g_strconcat(throttle_bucket_name(i / FIELDS), field_suffix[i % FIELDS], NULL);
}

static void init_lengths(ThrottleObject *t)
{
    for (unsigned i = 0; !t->has_length && i < THROTTLE_BUCKETS; i++) {
        t->config.buckets[i].length = 1;
    }
    t->has_length = true;
}

/* --- one number --- */

static Error *number_set(Object *obj, const Prop *prop, const char *text)
{
    ThrottleObject *t = (ThrottleObject *)obj;
    init_lengths(t);
    return parse_u64(text, field_at(&t->config, (unsigned)prop->min));
}

static char *number_get(const Object *obj, const Prop *prop)
{
    ThrottleObject *t = (ThrottleObject *)obj;
    return g_strdup_printf("%" PRIu64, *field_at(&t->config, (unsigned)prop->min));
}

static const PropKind number_kind = { "int", number_set, number_get, NULL, NULL, 'i' };

/* --- all of them --- */

static Error *config_from_value(const Value *dict, ThrottleConfig *config)
{
    size_t known = 0;
    if (value_kind(dict) != VALUE_DICT) {
        return error_new("a dictionary of limits is expected");
    }
    for (unsigned i = 0; i <= SIZE_FIELD; i++) {
        g_autofree char *name = field_name(i);
        const Value *item = value_find(dict, name);
        if (item && !value_get_uint(item, field_at(config, i))) {
            return error_new("'%s' expects a number that is not negative", name);
        }
        known += item != NULL;
    }
    return known == value_length(dict) ? NULL : error_new("there are limits of unknown names");
}

static Error *limits_set(Object *obj, const Prop *prop, const char *text)
{
    ThrottleObject *t = (ThrottleObject *)obj;
    g_autoptr(Value) dict = NULL;
    init_lengths(t);
    ThrottleConfig config = t->config; /* what is not named stays */
    TRY(json_parse(text, strlen(text), &dict));
    TRY(config_from_value(dict, &config));
    TRY(throttle_check_config(&config));
    t->config = config;
    if (t->group) {
        throttle_group_set(t->group, &config);
    }
    return NULL;
}

static char *limits_get(const Object *obj, const Prop *prop)
{
    ThrottleObject *t = (ThrottleObject *)obj;
    if (!t->group) {
        return NULL;
    }
    g_autoptr(Value) dict = value_dict();
    ThrottleConfig config = *throttle_group_config(t->group); /* a drive of the group may have set it */
    for (unsigned i = 0; i <= SIZE_FIELD; i++) {
        g_autofree char *name = field_name(i);
        value_put(dict, name, value_uint(*field_at(&config, i)));
    }
    return json_write(dict, false);
}

static const PropKind limits_kind = { "ThrottleLimits", limits_set, limits_get, NULL, NULL, 'j' };

/* --- the object --- */

static Error *complete(Object *obj)
{
    ThrottleObject *t = (ThrottleObject *)obj;
    init_lengths(t);
    TRY(throttle_check_config(&t->config));
    t->group = throttle_group_new(obj->id);
    throttle_group_set(t->group, &t->config);
    return NULL;
}

static bool in_use(const Object *obj)
{
    return throttle_group_is_used(((const ThrottleObject *)obj)->group);
}

static void finalize(Object *obj)
{
    throttle_group_unref(((ThrottleObject *)obj)->group);
}

/* By the names that QMP has for the members of "limits", and by those of the single properties. */
#define NUMBER(field, text)                                                                        \
    { .name = "limits." text, .kind = &number_kind, .min = (field), .flags = PROP_HIDDEN },         \
    { .name = "x-" text, .kind = &number_kind, .min = (field), .help = "as in \"limits\"",          \
      .flags = PROP_UNSTABLE }
#define BUCKET(bucket, text)                                                                       \
    NUMBER((bucket) * FIELDS, text), NUMBER((bucket) * FIELDS + FIELD_MAX, text "-max"),           \
        NUMBER((bucket) * FIELDS + FIELD_LENGTH, text "-max-length")

static const Prop props[] = {
    { .name = "limits", .kind = &limits_kind, .help = "the limits, as a dictionary", .flags = PROP_RUNTIME },
    BUCKET(THROTTLE_BPS_TOTAL, "bps-total"),
    BUCKET(THROTTLE_BPS_READ, "bps-read"),
    BUCKET(THROTTLE_BPS_WRITE, "bps-write"),
    BUCKET(THROTTLE_OPS_TOTAL, "iops-total"),
    BUCKET(THROTTLE_OPS_READ, "iops-read"),
    BUCKET(THROTTLE_OPS_WRITE, "iops-write"),
    NUMBER(SIZE_FIELD, "iops-size"),
    { 0 },
};

static const ObjectType throttle_type = {
    .name = "throttle-group", .size = sizeof(ThrottleObject), .props = props, .complete = complete,
    .in_use = in_use, .finalize = finalize,
};
OBJECT_REGISTER(&throttle_type);

ThrottleGroup *throttle_object_find(const Object *objects, const char *name)
{
    Object *obj = object_child(objects, name);
    return obj && obj->type == &throttle_type && obj->realized ? ((ThrottleObject *)obj)->group : NULL;
}
