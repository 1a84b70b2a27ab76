#!/usr/bin/env python3
"""A directory as a FAT disk: what mtools and fsck.fat find in it, and what mtools change in it comes back to the directory.

usage: vvfat_test.py OUR-QEMU-IMG OUR-QEMU-IO [TEST...]
Skipped where mtools or dosfstools are missing.
"""
import os
import random
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

IMG, IO = (os.path.abspath(p) for p in sys.argv[1:3])
PEER = shutil.which("qemu-img", path="/usr/bin:/usr/local/bin")
FSCK = shutil.which("fsck.vfat", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
os.environ["MTOOLS_SKIP_CHECK"] = "1"
KINDS = [("fat:", 63 * 512), ("fat:12:", 63 * 512), ("fat:32:", 63 * 512), ("fat:floppy:", 0), ("fat:floppy:12:", 0)]


def run(*argv, code=0, **more):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == code, (argv, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def put(name, data):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "wb") as f:
        f.write(data)


def get(name):
    with open(name, "rb") as f:
        return f.read()


def make_directory(seed, most):
    rng = random.Random(seed)
    names = ["a.txt", "README", "A long name with spaces.text", "ümlaut-ß-日本.dat", "two.dots.c", "empty", ".hidden", "lower.TXT",
             "long_name_01.bin", "long_name_02.bin", "sub/x.c", "sub/deeper/y.h", "sub/deeper/" + "z" * 100 + ".z", "sub2/none"]
    for name in names:
        put("dir/" + name, b"" if name == "empty" else rng.randbytes(rng.randrange(most)))
    for i in range(40):
        put(f"dir/many/file number {i}", b"%d" % i)
    os.makedirs("dir/empty directory")


def tree(top):
    found = {}
    for path, dirs, files in os.walk(top):
        for name in dirs:
            found[os.path.relpath(os.path.join(path, name), top)] = None
        for name in files:
            found[os.path.relpath(os.path.join(path, name), top)] = get(os.path.join(path, name))
    return found


def check(image, start):
    """By fsck.fat, on the volume alone, and by mtools, whose copy must be the directory."""
    data = get(image)
    put("volume", data[start:])
    run(FSCK, "-n", "-v", "volume")
    shutil.rmtree("copy", ignore_errors=True)
    os.mkdir("copy")
    run("mcopy", "-s", "-n", "-i", "volume", "::", "copy", env=dict(os.environ, LC_ALL="C.UTF-8"))
    return tree("copy")


def test_reading():
    make_directory(1, 50000)
    for name, start in KINDS:
        run(IMG, "convert", "-O", "raw", name + "dir", "x.raw")
        assert check("x.raw", start) == tree("dir"), name
        if start:
            assert b"\x55\xaa" == get("x.raw")[510:512]
        info = run(IMG, "info", name + "dir")
        if PEER and "32" not in name:
            assert run(PEER, "info", name + "dir").split("virtual size")[1].split("\n")[0] == info.split("virtual size")[1].split("\n")[0]


def test_large():
    """FAT32 grows with the directory; the others say that it does not fit."""
    os.mkdir("dir")
    with open("dir/large", "wb") as f:
        f.truncate(520 << 20)
        f.seek(500 << 20)
        f.write(b"here")
    assert "does not fit in FAT16" in run(IMG, "info", "fat:dir", code=1)
    run(IMG, "convert", "-O", "raw", "fat:32:dir", "x.raw")
    with open("x.raw", "rb") as f, open("volume", "wb") as out:
        f.seek(63 * 512)
        shutil.copyfileobj(f, out)
    run(FSCK, "-n", "volume")
    run("mcopy", "-i", "volume", "::large", "copy")
    run("cmp", "copy", "dir/large")


def change(image, start, work, flushes):
    """Has mtools change a copy of the disk, and writes the sectors that differ to the directory's disk."""
    run(IMG, "convert", "-O", "raw", image.replace("rw:", ""), "before.raw")
    put("volume", get("before.raw")[start:])
    work()
    run(FSCK, "-n", "volume")
    old, new = get("before.raw")[start:], get("volume")
    commands, at = [], 0
    while at < len(new):
        end = at
        while end < len(new) and old[end:end + 512] != new[end:end + 512]:
            end += 512
        if end > at:
            put(f"part{at}", new[at:end])
            commands.append(f"write -q -s part{at} {start + at} {end - at}")
        at = end + 512
    random.Random(len(commands)).shuffle(commands)
    for i in range(0, len(commands) if flushes else 0, 7):  # a flush in the middle of everything changes nothing, or all that is whole
        commands.insert(i, "flush")
    put("commands", ("\n".join(commands) + "\n").encode())
    with open("commands") as f:
        run(IO, "-t", "writeback", "-f", "raw", image, stdin=f)
    return check_again(image, start)


def check_again(image, start):
    run(IMG, "convert", "-O", "raw", image.replace("rw:", ""), "after.raw")
    return check("after.raw", start)


def mt(*argv):
    run(*argv[:1], "-i", "volume", *argv[1:], env=dict(os.environ, LC_ALL="C.UTF-8"))


def test_changes():
    for image, start, flushes in (("fat:rw:dir", 63 * 512, True), ("fat:rw:32:dir", 63 * 512, False), ("fat:floppy:rw:dir", 0, True)):
        shutil.rmtree("dir", ignore_errors=True)
        make_directory(2, 30000)
        os.chmod("dir/README", 0o640)
        want = tree("dir")
        inode = os.stat("dir/sub/x.c").st_ino

        def work():
            put("new", random.Random(5).randbytes(70000))
            mt("mcopy", "new", "::new file.bin")
            mt("mcopy", "-o", "new", "::README")
            mt("mdel", "::a.txt")
            mt("mmd", "::made")
            mt("mcopy", "new", "::made/Inside")
            mt("mmove", "::sub/x.c", "::made/moved here.c")
            mt("mdeltree", "::many")
            mt("mren", "::two.dots.c", "three.dots.c")
            put("new2", b"")
            mt("mcopy", "-o", "new2", "::lower.TXT")

        change(image, start, work, flushes)
        new = get("new")
        want.update({"new file.bin": new, "README": new, "made": None, "made/Inside": new, "made/moved here.c": want.pop("sub/x.c"),
                     "three.dots.c": want.pop("two.dots.c"), "lower.TXT": b""})
        want = {k: v for k, v in want.items() if k != "a.txt" and not k.startswith("many")}
        got = tree("dir")
        assert got == want, (image, set(got) ^ set(want), [k for k in got if got[k] != want.get(k)])
        assert check_again(image, start) == want
        assert flushes or os.stat("dir/made/moved here.c").st_ino == inode  # moved, not copied
        assert os.stat("dir/README").st_mode & 0o777 == 0o640


def test_faults():
    """A file system that does not hold together leaves the directory alone, and so do names that lead out of it."""
    make_directory(3, 5000)
    os.mkdir("outside")
    os.symlink("../outside", "dir/link")
    before = tree("dir")
    run(IMG, "convert", "-O", "raw", "fat:dir", "x.raw")
    data = get("x.raw")
    table = 63 * 512 + 512
    rng = random.Random(1)
    for number in range(12):
        at = table + rng.randrange(4, 200) if number % 2 else table + 2 * 252 * 512 + rng.randrange(0, 600)
        value = rng.randrange(256)
        put("byte", bytes([value]))
        text = run(IO, "-f", "raw", "-c", f"write -q -P {value} {at} 1", "fat:rw:dir")
        assert tree("dir") == before or "lost" not in text, (number, at)
        if tree("dir") != before:
            shutil.rmtree("dir")
            make_directory(3, 5000)
            os.symlink("../outside", "dir/link")
    # A name with a slash, and "..", in the first part of a long name.
    at = data.index("README".encode("utf-16-le")[:10])
    for text in ("/", "..\0"):
        put("name", text.encode("utf-16-le"))
        run(IO, "-f", "raw", "-c", f"write -q -s name {at} {2 * len(text)}", "fat:rw:dir")
        assert tree("dir") == before
    # Below a link of the host nothing is written.
    shutil.rmtree("outside")
    put("outside/old", b"old")
    run(IMG, "convert", "-O", "raw", "fat:dir", "x.raw")
    put("volume", get("x.raw")[63 * 512:])
    put("new", b"new")
    mt("mcopy", "-o", "new", "::link/new")
    run(IMG, "convert", "-n", "-f", "raw", "-O", "raw", "x.raw", "fat:rw:dir")
    with open("x.raw", "r+b") as f:
        f.seek(63 * 512)
        f.write(get("volume"))
    assert "links are not followed" in run(IMG, "convert", "-n", "-f", "raw", "-O", "raw", "x.raw", "fat:rw:dir")
    assert os.listdir("outside") == ["old"]


def test_options():
    make_directory(4, 100)
    assert "reading only" in run(IO, "-f", "raw", "-c", "write 0 512", "fat:dir", code=1)
    assert "FAT12" in run(IMG, "info", "fat:floppy:16:dir", code=1)
    assert "fat-type is 12" in run(IMG, "info", "--image-opts", "driver=vvfat,dir=dir,fat-type=13", code=1)
    assert "No such file" in run(IMG, "info", "fat:nowhere", code=1)
    run(IMG, "convert", "--image-opts", "-O", "raw", "driver=vvfat,dir=dir,label=THE LABEL,floppy=on", "x.raw")
    assert "THE LABEL" in run("mlabel", "-s", "-i", "x.raw", "::")


def with_tools(test):
    if not FSCK or not shutil.which("mcopy"):
        raise tap.Skip("no mtools or no dosfstools")
    tap.in_scratch(test)


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=with_tools)
