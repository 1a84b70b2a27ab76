/* Golden tests: command lines and the canonical objects they stand for; errors word for word. */
#include "cli/plan.h"

#include <stdio.h>
#include <string.h>

static char *dump_of(const char *line)
{
    g_auto(GStrv) words = NULL;
    gint count;
    g_autofree char *whole = g_strconcat("qemu-system-x86_64 ", line, NULL);

    g_assert_true(g_shell_parse_argv(whole, &count, &words, NULL));
    Plan *plan = plan_new(words[0]);
    Error *err = cli_parse(plan, count, words);
    if (!err && !plan->print) {
        err = cli_finish(plan);
    }
    char *text = err ? g_strdup(error_message(err)) : plan->print ? g_strdup(plan->print) : plan_dump(plan);
    error_free(err);
    plan_free(plan);
    return text;
}

static void check(const char *line, const char *expected)
{
    g_autofree char *text = dump_of(line);
    g_assert_cmpstr(text, ==, expected);
}

static void test_nodefaults(void)
{
    check("-nodefaults", "-machine pc\n");
    check("-M none -nodefaults -S", "-machine none\n");
    check("-nodefaults -machine pc,usb=on -M smm=off", "-machine pc,usb=on,smm=off\n");
    check("-nodefaults -enable-kvm", "-machine pc\n-accel kvm\n-accel tcg\n");
    check("-nodefaults -machine pc,accel=kvm:tcg", "-machine pc\n-accel kvm\n-accel tcg\n");
}

static void test_default_devices(void)
{
    check("-net none",
          "-machine pc\n"
          "-chardev vc,id=compat_monitor0,cols=80,rows=24\n"
          "-chardev vc,id=serial0,cols=80,rows=24\n"
          "-chardev vc,id=parallel0,cols=80,rows=24\n"
          "-mon compat_monitor0,mode=readline\n"
          "-drive if=none,id=ide1-cd0,readonly=on,media=cdrom\n"
          "-drive if=none,id=floppy0\n"
          "-device VGA\n"
          "-device isa-serial,index=0,chardev=serial0\n"
          "-device isa-parallel,index=0,chardev=parallel0\n"
          "-device ide-cd,bus=ide.1,unit=0,drive=ide1-cd0\n"
          "-device isa-fdc\n"
          "-device floppy,unit=0,drive=floppy0\n");
    check("-nographic -nic none",
          "-machine pc\n"
          "-chardev stdio,id=serial0,mux=on,signal=off\n"
          "-chardev null,id=parallel0\n"
          "-mon serial0,mode=readline\n"
          "-drive if=none,id=ide1-cd0,readonly=on,media=cdrom\n"
          "-drive if=none,id=floppy0\n"
          "-device VGA\n"
          "-device isa-serial,index=0,chardev=serial0\n"
          "-device isa-parallel,index=0,chardev=parallel0\n"
          "-device ide-cd,bus=ide.1,unit=0,drive=ide1-cd0\n"
          "-device isa-fdc\n"
          "-device floppy,unit=0,drive=floppy0\n");
    check("-nodefaults -serial mon:stdio -vga std",
          "-machine pc\n"
          "-chardev stdio,id=serial0,mux=on,signal=off\n"
          "-mon serial0,mode=readline\n"
          "-device VGA\n"
          "-device isa-serial,index=0,chardev=serial0\n");
    check("-nodefaults -chardev null,id=x -serial none -serial chardev:x -qmp null -monitor stdio",
          "-machine pc\n"
          "-chardev null,id=x\n"
          "-chardev null,id=compat_monitor0\n"
          "-chardev stdio,id=compat_monitor1\n"
          "-mon compat_monitor0,mode=control\n"
          "-mon compat_monitor1,mode=readline\n"
          "-device isa-serial,index=1,chardev=x\n");
    check("-nodefaults -debugcon file:x.log -parallel /dev/null -usbdevice tablet",
          "-machine pc,usb=on\n"
          "-chardev serial,id=parallel0,path=/dev/null\n"
          "-chardev file,id=debugcon,path=x.log\n"
          "-device isa-parallel,index=0,chardev=parallel0\n"
          "-device isa-debugcon,iobase=0xe9,chardev=debugcon\n"
          "-device usb-tablet\n");
}

static void test_drives(void)
{
    check("-nodefaults disk.img",
          "-machine pc\n"
          "-drive if=none,id=ide0-hd0,file=disk.img\n"
          "-device ide-hd,bus=ide.0,unit=0,drive=ide0-hd0\n");
    check("-nodefaults -hdb a,b.img -cdrom x.iso -fda f.img",
          "-machine pc\n"
          "-drive if=none,id=ide0-hd1,file=a,,b.img\n"
          "-drive if=none,id=ide1-cd0,file=x.iso,readonly=on,media=cdrom\n"
          "-drive if=none,id=floppy0,file=f.img\n"
          "-device ide-hd,bus=ide.0,unit=1,drive=ide0-hd1\n"
          "-device ide-cd,bus=ide.1,unit=0,drive=ide1-cd0\n"
          "-device isa-fdc\n"
          "-device floppy,unit=0,drive=floppy0\n");
    check("-nodefaults -drive file=a.qcow2,format=qcow2,if=virtio,serial=S1 -drive file=b.img,if=none,id=d "
          "-device ide-hd,drive=d",
          "-machine pc\n"
          "-drive if=none,id=virtio0,file=a.qcow2,format=qcow2\n"
          "-drive if=none,file=b.img,id=d\n"
          "-device ide-hd,drive=d\n"
          "-device virtio-blk-pci,drive=virtio0,serial=S1\n");
    /* Positions that are given are taken first; the others fill what is left. */
    check("-nodefaults -drive file=a -drive file=b,index=0 -snapshot",
          "-machine pc\n"
          "-drive if=none,id=ide0-hd0,file=b,snapshot=on\n"
          "-drive if=none,id=ide0-hd1,file=a,snapshot=on\n"
          "-device ide-hd,bus=ide.0,unit=0,drive=ide0-hd0\n"
          "-device ide-hd,bus=ide.0,unit=1,drive=ide0-hd1\n");
    check("-nodefaults -pflash fw.fd -set drive.pflash0.readonly=on",
          "-machine pc\n"
          "-drive if=pflash,id=pflash0,file=fw.fd,unit=0,readonly=on\n");
    check("-nodefaults -blockdev driver=file,filename=x,node-name=n -device ide-hd,drive=n",
          "-machine pc\n"
          "-blockdev file,filename=x,node-name=n\n"
          "-device ide-hd,drive=n\n");
}

static void test_network(void)
{
    check("-nodefaults -netdev user,id=n,hostfwd=tcp::1-:2,hostfwd=tcp::3-:4 -device virtio-net-pci,netdev=n",
          "-machine pc\n"
          "-netdev user,id=n,hostfwd=tcp::1-:2,hostfwd=tcp::3-:4\n"
          "-device virtio-net-pci,netdev=n\n");
    check("-nodefaults -nic user,model=virtio-net-pci,mac=52:54:00:00:00:01,hostfwd=tcp::1-:2",
          "-machine pc\n"
          "-netdev user,hostfwd=tcp::1-:2,id=nic.0\n"
          "-device virtio-net-pci,netdev=nic.0,mac=52:54:00:00:00:01\n");
    check("-nodefaults -net nic,model=virtio,macaddr=52:54:00:00:00:01 -net user",
          "-machine pc\n"
          "-netdev hubport,id=hub0port0,hubid=0\n"
          "-netdev user,id=net.1\n"
          "-netdev hubport,id=hub0port1,hubid=0,netdev=net.1\n"
          "-device virtio-net-pci,netdev=hub0port0,mac=52:54:00:00:00:01\n");
}

static void test_errors(void)
{
    static const struct {
        const char *line, *message;
    } cases[] = {
        { "-devise e1000", "-devise: invalid option, did you mean '-device'?" },
        { "--xyzzy", "--xyzzy: invalid option" },
        { "-m", "-m: requires an argument" },
        { "-M pcc", "unsupported machine type 'pcc', did you mean 'pc'?" },
        { "-accel kvmm", "invalid accelerator kvmm, did you mean 'kvm'? (see -accel help)" },
        { "-vga stdd", "-vga stdd: invalid video card, did you mean 'std'? (see -vga help)" },
        { "-icount 11", "-icount 11: icount: Invalid shift value '11': a number from 0 to 10, or auto" },
        { "-icount align=on", "-icount align=on: align=on needs shift=" },
        { "-icount 3,align=on,sleep=off", "-icount 3,align=on,sleep=off: align=on and sleep=off are incompatible" },
        { "-icount 3,rr=record", "-icount 3,rr=record: rr= needs rrfile=, the file of the recording" },
        { "-icount 3,rr=x,rrfile=y", "-icount 3,rr=x,rrfile=y: rr is record or replay, not 'x'" },
        { "-icount auto,rr=record,rrfile=y", "-icount auto,rr=record,rrfile=y: rr cannot be had with shift=auto" },
        { "-icount auto,sleep=off", "-icount auto,sleep=off: shift=auto and sleep=off are incompatible" },
        { "-smp 0", "Invalid CPU topology: CPU topology parameters must be greater than zero" },
        { "-smp 3,sockets=2,cores=1,threads=1,maxcpus=4",
          "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (2) * dies (1) * cores (1) * "
          "threads (1) != maxcpus (4)" },
        { "-smp 1,sockets=4",
          "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (4) * dies (1) * cores (0) * "
          "threads (1) != maxcpus (1)" },
        { "-smp 2,corse=1", "-smp: unknown parameter 'corse', did you mean 'cores'?" },
        { "-m 1G,maxmem=512M", "invalid value of maxmem: maximum memory size (0x20000000) must be at least the initial "
                               "memory size (0x40000000)" },
        { "-boot z", "Invalid boot device 'z': a, b floppy; c disk; d CD-ROM; n to p network" },
        { "-append x", "-append is the command line of a kernel: give -kernel too" },
        { "-serial stdoi", "-serial stdoi: 'stdoi' is no character device, did you mean 'stdio'?" },
        { "-hda a -hda b", "-drive file=b,index=0,media=disk: drive with bus=0, unit=0 (index=0) exists" },
        { "-drive if=idee,file=x", "-drive if=idee,file=x: unsupported bus type 'idee', did you mean 'ide'?" },
        { "-device virtio-blk-pci,id=a -device virtio-blk-pci,id=a",
          "-device virtio-blk-pci,id=a: two devices have the id 'a'" },
        { "-set device.x.y=1", "-set device.x.y=1: there is no device \"x\" defined" },
        { "-rtc base=yesterday", "-rtc base=yesterday: invalid date 'yesterday'; valid are: utc, localtime, "
                                 "'2006-06-17T16:01:21' or '2006-06-17'" },
        { "-netdev user", "-netdev user: Parameter 'id' is missing" },
        { "-nic user,model=nosuchcard", "-nic user,model=nosuchcard: Unsupported NIC model: nosuchcard (see -nic model=help)" },
        { "-loadvm a -incoming defer", "'incoming' and 'loadvm' options are mutually exclusive" },
        { "-loadvm a -preconfig", "'preconfig' and 'loadvm' options are mutually exclusive" },
        { "-d nosuch", "-d nosuch: -d: unknown log item 'nosuch' (see -d help)" },
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        check(cases[n].line, cases[n].message);
    }
}

typedef struct Topology {
    const char *line;
    unsigned cpus, max, sockets, cores, threads;
} Topology;

static void test_topology(void)
{
    static const Topology cases[] = {
        { "-smp 4", 4, 4, 1, 4, 1 },
        { "-smp 4,threads=2", 4, 4, 1, 2, 2 },
        { "-smp sockets=2,cores=2", 4, 4, 2, 2, 1 },
        { "-smp 2,maxcpus=8", 2, 8, 1, 8, 1 },
        { "-smp 8,sockets=2", 8, 8, 2, 4, 1 },
        { "-smp cpus=4,cores=2", 4, 4, 2, 2, 1 },
        { "", 1, 1, 1, 1, 1 },
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        g_auto(GStrv) words = NULL;
        gint count;
        g_autofree char *whole = g_strconcat("qemu ", cases[n].line, NULL);
        g_assert_true(g_shell_parse_argv(whole, &count, &words, NULL));
        Plan *plan = plan_new("qemu");
        g_assert_null(cli_parse(plan, count, words));
        g_assert_null(cli_finish(plan));
        const MachineConfig *config = plan->config;
        g_assert_cmpuint(config->cpus, ==, cases[n].cpus);
        g_assert_cmpuint(config->max_cpus, ==, cases[n].max);
        g_assert_cmpuint(config->sockets, ==, cases[n].sockets);
        g_assert_cmpuint(config->cores, ==, cases[n].cores);
        g_assert_cmpuint(config->threads, ==, cases[n].threads);
        plan_free(plan);
    }
}

static void test_readconfig(void)
{
    g_autofree char *path = g_strdup_printf("%s/plan-test-%d.cfg", g_get_tmp_dir(), (int)g_random_int_range(0, 1 << 30));
    static const char text[] = "# a comment\n"
                               "[machine]\n  type = \"pc\"\n"
                               "[device \"disk\"]\n  driver = \"ide-hd\"\n  drive = \"d0\"\n"
                               "[drive \"d0\"]\n  file = \"a,b\"\n  if = \"none\"\n";
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_autofree char *line = g_strdup_printf("-nodefaults -readconfig %s", path);
    check(line, "-machine pc\n-drive if=none,id=d0,file=a,,b\n-device id=disk,driver=ide-hd,drive=d0\n");
    g_assert_true(g_file_set_contents(path, "x = \"1\"\n", -1, NULL));
    g_autofree char *expected = g_strdup_printf("-readconfig %s: line 1: 'x' stands before the first section", path);
    check(line, expected);
    remove(path);
}

static void test_misc(void)
{
    check("-version", "QEMU emulator version 7.2.0 (Ostrich 0.1.0)\n");
    check("-nodefaults -global isa-fdc.driveA=x -global driver=VGA,property=p,value=v",
          "-machine pc\n-global driver=isa-fdc,property=driveA,value=x\n-global driver=VGA,property=p,value=v\n");
    check("-nodefaults -device '{\"driver\":\"isa-serial\",\"id\":\"s\",\"index\":1}'",
          "-machine pc\n-device isa-serial,id=s,index=1\n");
    g_autofree char *help = dump_of("-help");
    g_assert_nonnull(strstr(help, "usage: qemu-system-x86_64 [options] [disk_image]"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cli/plan/nodefaults", test_nodefaults);
    g_test_add_func("/cli/plan/default-devices", test_default_devices);
    g_test_add_func("/cli/plan/drives", test_drives);
    g_test_add_func("/cli/plan/network", test_network);
    g_test_add_func("/cli/plan/errors", test_errors);
    g_test_add_func("/cli/plan/topology", test_topology);
    g_test_add_func("/cli/plan/readconfig", test_readconfig);
    g_test_add_func("/cli/plan/misc", test_misc);
    return g_test_run();
}
