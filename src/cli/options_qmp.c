/* query-command-line-options: the option table for programs. */
#include <string.h>

#include "cli/plan.h"
#include "schema/qmp_commands.h"

Error *qmp_query_command_line_options(QmpContext *ctx, const QmpQueryCommandLineOptionsArgs *args, Value **ret)
{
    const char *name;
    bool has_arg;

    *ret = value_list();
    for (unsigned n = 0; (name = cli_option_name(n, &has_arg)); n++) {
        if (!has_arg || (args->has_option && strcmp(args->option, name))) {
            continue;
        }
        Value *info = value_dict();
        value_put_str(info, "option", name);
        value_put(info, "parameters", value_list());
        value_append(*ret, info);
    }
    if (args->has_option && value_length(*ret) == 0) {
        value_free(*ret);
        *ret = NULL;
        return error_new("invalid option name: %s", args->option);
    }
    return NULL;
}
