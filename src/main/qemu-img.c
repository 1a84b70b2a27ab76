/* qemu-img: creates and manages disk images. The commands are in img/. */
#include <stdio.h>
#include <string.h>

#include "main/img/img.h"

static const ImgCommand commands[] = {
    { "amend",
      "amend [--object objectdef] [--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o options "
      "filename",
      img_amend },
    { "bench",
      "bench [-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] "
      "[--no-drain] [-o offset] [--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] "
      "[-w] [-U] filename",
      img_bench },
    { "bitmap",
      "bitmap (--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b "
      "source_file [-F source_fmt]] [-g granularity] [--object objectdef] [--image-opts | -f fmt] "
      "filename bitmap",
      img_bitmap },
    { "check",
      "check [--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] "
      "[-T src_cache] [-U] filename",
      img_check },
    { "commit",
      "commit [--object objectdef] [--image-opts] [-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] "
      "filename",
      img_commit },
    { "compare",
      "compare [--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] "
      "[-U] "
      "filename1 filename2",
      img_compare },
    { "convert",
      "convert [--object objectdef] [--image-opts] [--target-image-opts] [--target-is-zero] "
      "[--bitmaps [--skip-broken-bitmaps]] [-U] [-C] [-c] [-p] "
      "[-q] [-n] [-f fmt] [-t cache] [-T src_cache] [-O output_fmt] [-B backing_file [-F "
      "backing_fmt]] "
      "[-o options] [-l snapshot_param] [-S sparse_size] [-r rate_limit] [-m num_coroutines] [-W] [--salvage] "
      "filename "
      "[filename2 [...]] output_filename",
      img_convert },
    { "create",
      "create [--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o "
      "options] "
      "filename [size]",
      img_create },
    { "dd",
      "dd [--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] "
      "[skip=blocks] if=input of=output",
      img_dd },
    { "info",
      "info [--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] "
      "filename",
      img_info },
    { "map",
      "map [--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] "
      "[--output=ofmt] [-U] filename",
      img_map },
    { "measure",
      "measure [--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] "
      "[--image-opts] [-f fmt] [-l snapshot_param] filename]",
      img_measure },
    { "rebase",
      "rebase [--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] "
      "[-p] [-u] [-c] -b "
      "backing_file [-F backing_fmt] filename",
      img_rebase },
    { "resize",
      "resize [--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] [-q] "
      "[--shrink] "
      "filename [+ | -]size",
      img_resize },
    { "snapshot",
      "snapshot [--object objectdef] [--image-opts] [-U] [-q] [-l | -a snapshot | -c snapshot | "
      "-d snapshot] filename",
      img_snapshot },
};

static void print_version(void)
{
    printf("qemu-img version 7.2.0 (Ostrich 0.1.0)\n");
}

static void print_help(void)
{
    print_version();
    printf("usage: qemu-img [standard options] command [command options]\n"
           "Creates, converts, checks and changes disk images.\n\n"
           "    '-h', '--help'       display this help and exit\n"
           "    '-V', '--version'    output version information and exit\n\n"
           "Command syntax:\n");
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        printf("  %s\n", commands[i].synopsis);
    }
    g_autofree char *formats = block_drivers_text();
    printf("\nSupported formats:%s\n", formats);
}

static const ImgCommand *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (!strcmp(commands[i].name, name)) {
            return &commands[i];
        }
    }
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[ARRAY_SIZE(commands) + 1] = { NULL };
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        names[i] = commands[i].name;
    }
    const char *near = nearest_in(name, names);
    return img_usage_error(error_new("Command not found: %s%s%s%s", name,
                                     near ? ", did you mean '" : "", near ? near : "",
                                     near ? "'?" : ""));
}

static int run_command(const ImgCommand *command, int argc, char **argv)
{
    Clocks *clocks = clocks_new();
    Loop *loop = loop_new("main", clocks, NULL);
    BlockGraph *graph = block_graph_new(loop);
    int result = command->run(command, graph, argc, argv);

    block_graph_free(graph);
    loop_free(loop);
    clocks_free(clocks);
    return result;
}

int main(int argc, char **argv)
{
    error_set_program(argv[0]);
    int at = 1;
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (!strcmp(argv[at], "-h") || !strcmp(argv[at], "--help")) {
            print_help();
            return 0;
        }
        if (!strcmp(argv[at], "-V") || !strcmp(argv[at], "--version")) {
            print_version();
            return 0;
        }
        if (g_str_has_prefix(argv[at], "-T") || g_str_has_prefix(argv[at], "--trace")) {
            return img_usage_error(error_new("%s: trace events are accesses to devices, and this program has none: "
                                             "leave it out", argv[at]));
        }
        return img_usage_error(error_new("unrecognized option '%s'", argv[at]));
    }
    if (at == argc) {
        return img_usage_error(error_new("Not enough arguments"));
    }
    const ImgCommand *command = find_command(argv[at]);
    return command ? run_command(command, argc - at, argv + at) : unknown_command(argv[at]);
}
