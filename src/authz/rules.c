/* Rules: the first that matches decides. */
#include <fnmatch.h>
#include <string.h>

#include "authz/authz_priv.h"

typedef struct Rule {
    char *match;
    bool allow, glob;
} Rule;

struct AuthzRules {
    GArray *rules; /* Rule */
    bool allow;
};

Error *authz_parse_policy(const char *text, bool *ret_allow)
{
    if (strcmp(text, "allow") && strcmp(text, "deny")) {
        return error_new("Parameter 'policy' does not accept value '%s': allow or deny is expected", text);
    }
    *ret_allow = !strcmp(text, "allow");
    return NULL;
}

static Error *parse_rule(const Value *value, Rule *ret_rule)
{
    const char *match = value_find_str(value, "match"), *policy = value_find_str(value, "policy"),
               *format = value_find_str(value, "format");
    Rule rule = { 0 };

    if (!match || !policy) {
        return error_new("A rule needs 'match' and 'policy'");
    }
    TRY(authz_parse_policy(policy, &rule.allow));
    if (format && strcmp(format, "exact") && strcmp(format, "glob")) {
        return error_new("Parameter 'format' does not accept value '%s': exact or glob is expected", format);
    }
    rule.glob = format && !strcmp(format, "glob");
    rule.match = g_strdup(match);
    *ret_rule = rule;
    return NULL;
}

static void rule_clear(void *opaque)
{
    g_free(((Rule *)opaque)->match);
}

Error *authz_rules_new(const Value *list, bool allow, AuthzRules **ret_rules)
{
    if (list && value_kind(list) != VALUE_LIST) {
        return error_new("'rules' is not a list");
    }
    AuthzRules *rules = g_new0(AuthzRules, 1);
    rules->allow = allow;
    rules->rules = g_array_new(FALSE, FALSE, sizeof(Rule));
    g_array_set_clear_func(rules->rules, rule_clear);
    for (size_t n = 0; list && n < value_length(list); n++) {
        Rule rule;
        Error *err = parse_rule(value_at(list, n), &rule);
        if (err) {
            authz_rules_free(rules);
            return err;
        }
        g_array_append_val(rules->rules, rule);
    }
    *ret_rules = rules;
    return NULL;
}

void authz_rules_free(AuthzRules *rules)
{
    if (rules) {
        g_array_unref(rules->rules);
        g_free(rules);
    }
}

bool authz_rules_allow(const AuthzRules *rules, const char *identity)
{
    for (guint n = 0; n < rules->rules->len; n++) {
        const Rule *rule = &g_array_index(rules->rules, Rule, n);
        if (rule->glob ? fnmatch(rule->match, identity, 0) == 0 : !strcmp(rule->match, identity)) {
            return rule->allow;
        }
    }
    return rules->allow;
}
