/* Expressions in HMP arguments, by precedence climbing: | ^ & then + - then * / %, then unary. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/hmp_priv.h"

typedef struct Parser {
    Hmp *hmp;
    const char *at;
    unsigned depth;
} Parser;

static MUST_USE Error *parse_level(Parser *p, unsigned level, uint64_t *ret_value);

static void skip_space(Parser *p)
{
    while (*p->at == ' ') {
        p->at++;
    }
}

typedef struct RegisterJob {
    const char *name;
    uint64_t value;
    bool found;
} RegisterJob;

static void read_register(Vcpu *vcpu, void *opaque)
{
    RegisterJob *job = opaque;
    job->found = vcpu->ops->reg(vcpu, job->name, &job->value);
}

static MUST_USE Error *parse_register(Parser *p, uint64_t *ret_value)
{
    size_t length = 1;
    while (g_ascii_isalnum(p->at[length]) || strchr("_.", p->at[length] ? p->at[length] : ' ')) {
        length++;
    }
    g_autofree char *name = g_strndup(p->at + 1, length - 1);
    Vcpu *vcpu = hmp_cpu(p->hmp);
    RegisterJob job = { .name = name };
    if (!vcpu || !vcpu->ops || !vcpu->ops->reg) {
        return error_new("no CPU defined");
    }
    hmp_on_cpu(vcpu, read_register, &job);
    if (!job.found) {
        return error_new("unknown register '%s'", name);
    }
    p->at += length;
    *ret_value = job.value;
    return NULL;
}

static MUST_USE Error *parse_primary(Parser *p, uint64_t *ret_value)
{
    char *end;

    skip_space(p);
    if (*p->at == '(') {
        p->at++;
        TRY(parse_level(p, 0, ret_value));
        skip_space(p);
        if (*p->at != ')') {
            return error_new("')' expected");
        }
        p->at++;
        return NULL;
    }
    if (*p->at == '$') {
        return parse_register(p, ret_value);
    }
    if (*p->at == '\'' && p->at[1] && p->at[2] == '\'') {
        *ret_value = (unsigned char)p->at[1];
        p->at += 3;
        return NULL;
    }
    errno = 0;
    uint64_t value = g_ascii_strtoull(p->at, &end, 0);
    if (!g_ascii_isdigit(*p->at) || errno) {
        return error_new(errno ? "number too large" : "'%c' has no place in an expression: invalid "
                                                      "char", *p->at ? *p->at : ' ');
    }
    p->at = end;
    *ret_value = value;
    return NULL;
}

static MUST_USE Error *parse_unary(Parser *p, uint64_t *ret_value)
{
    skip_space(p);
    char op = *p->at;
    if (op == '-' || op == '+' || op == '~' || op == '!') {
        if (++p->depth > 100) {
            return error_new("expression nested too deeply");
        }
        p->at++;
        TRY(parse_unary(p, ret_value));
        p->depth--;
        *ret_value = op == '-' ? -*ret_value : op == '~' ? ~*ret_value : op == '!' ? !*ret_value : *ret_value;
        return NULL;
    }
    return parse_primary(p, ret_value);
}

static MUST_USE Error *apply(char op, uint64_t *value, uint64_t right)
{
    switch (op) {
    case '|':
        *value |= right;
        break;
    case '^':
        *value ^= right;
        break;
    case '&':
        *value &= right;
        break;
    case '+':
        *value += right;
        break;
    case '-':
        *value -= right;
        break;
    case '*':
        *value *= right;
        break;
    default:
        if (right == 0) {
            return error_new("division by zero");
        }
        *value = op == '/' ? *value / right : *value % right;
    }
    return NULL;
}

static Error *parse_level(Parser *p, unsigned level, uint64_t *ret_value)
{
    static const char *const operators[] = { "|^&", "+-", "*/%" };

    if (level == ARRAY_SIZE(operators)) {
        return parse_unary(p, ret_value);
    }
    if (++p->depth > 100) {
        return error_new("expression nested too deeply");
    }
    TRY(parse_level(p, level + 1, ret_value));
    for (;;) {
        /* A blank ends the expression unless an operator follows with an operand close to it. */
        const char *start = p->at;
        skip_space(p);
        char op = *p->at;
        if (!op || !strchr(operators[level], op) || (p->at > start && p->at[1] != ' ')) {
            p->at = start;
            p->depth--;
            return NULL;
        }
        uint64_t right;
        p->at++;
        TRY(parse_level(p, level + 1, &right));
        TRY(apply(op, ret_value, right));
    }
}

Error *hmp_expression(Hmp *hmp, const char **text, uint64_t *ret_value)
{
    Parser p = { .hmp = hmp, .at = *text };

    TRY(parse_level(&p, 0, ret_value));
    *text = p.at;
    return NULL;
}
