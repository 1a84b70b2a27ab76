#!/usr/bin/env python3
"""Objects of the image programs, and encrypted images, against another qemu-img.

usage: crypto_test.py OUR-QEMU-IMG OUR-QEMU-IO OUR-QEMU-NBD [TEST...]
"""
import json
import os
import random
import shutil
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

IMG, IO, NBD = (os.path.abspath(p) for p in sys.argv[1:4])
PEER, PEER_IO = (shutil.which(t, path="/usr/bin:/usr/local/bin") for t in ("qemu-img", "qemu-io"))
CRYPTSETUP = shutil.which("cryptsetup", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
KEYS = ["--object", "secret,id=k,data=open sesame", "--object", "secret,id=n,data=another",
        "--object", "secret,id=w,data=wrong"]


def run(*argv, code=0):
    """What a program said, on either stream."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    if done.returncode != code:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}, expected {code}\n{done.stdout}")
    return done.stdout


def peer_img(*argv):
    """Another qemu-img measures its CPU time by the host's ticks and fails when there was none: it gets more tries."""
    for _ in range(40):
        done = subprocess.run([PEER, *argv], capture_output=True, text=True, timeout=300)
        if "accurate CPU usage" not in done.stderr:
            break
    if done.returncode:
        sys.exit(f"{argv}: {done.stderr}")
    return done.stdout


def need(*tools):
    for name, tool in zip(("another qemu-img", "cryptsetup"), tools):
        if not tool:
            raise tap.Skip(f"{name} is not installed")


def luks(path, secret="k"):
    return ["--image-opts", f"driver=luks,key-secret={secret},file.filename={path}"]


def fill(path, size):
    rng = random.Random(size)
    with open(path, "wb") as f:
        for _ in range(size // 65536):
            f.write(rng.randbytes(65536))


def same(a, b):
    with open(a, "rb") as f, open(b, "rb") as g:
        assert f.read() == g.read(), (a, b)


def facts(tool, path):
    about = json.loads(run(tool, "info", "--output=json", path))
    del about["actual-size"]
    about.pop("children", None)
    return about


def test_objects():
    run(IMG, "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
    with open("key", "w") as f:
        f.write("open sesame")
    for how in (["--object", "secret,id=k,file=key"], ["--object=secret,id=k,data=123"],
                ["--object", '{"qom-type":"secret","id":"k","data":"MTIz","format":"base64"}'],
                ["--object", "secret,id=m,data=00000000000000000000000000000000", "--object", "secret,id=k,file=key"]):
        run(IMG, "info", *how, "a.qcow2")
        run(IMG, "info", "--image-opts", *how, "driver=qcow2,file.filename=a.qcow2")
        run(IO, *how, "-c", "read 0 512", "a.qcow2")
    bad = (("secret,id=k", "file= or data= must"), ("secret,data=x", "Parameter 'id' is missing"),
           ("sekret,id=k,data=x", "did you mean 'secret'"), ("secret,id=k,file=/nonexistent", "/nonexistent"),
           ("secret,id=k,data=a,color=red", "color"))
    for text, why in bad:
        assert why in run(IMG, "info", "--object", text, "a.qcow2", code=1)
        assert why in run(IO, "--object", text, "-c", "help", code=1)
        assert why in run(NBD, "--object", text, "-L", code=1)
    twice = ["--object", "secret,id=k,data=1"] * 2
    assert "duplicate" in run(IMG, "info", *twice, "a.qcow2", code=1)
    for tool in ((IMG, "info"), (IO,), (NBD, "-L")):
        assert "\n  secret\n" in run(*tool, "--object", "help")
        assert "file=<str>" in run(*tool, "--object", "secret,help")


SHAPES = ("", "cipher-alg=aes-128,hash-alg=sha1", "cipher-alg=aes-192", "cipher-mode=cbc,ivgen-alg=essiv",
          "cipher-mode=cbc,ivgen-alg=plain",
          "cipher-alg=serpent-256", "cipher-alg=twofish-256,hash-alg=sha512", "cipher-alg=cast5-128,cipher-mode=cbc",
          "hash-alg=ripemd160", "cipher-mode=ctr", "cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256",
          "cipher-mode=ecb", "hash-alg=sha224", "hash-alg=sha384", "cipher-alg=serpent-128,cipher-mode=cbc,ivgen-alg=plain64")


def test_luks_both_ways():
    """Images that one makes, the other reads and changes."""
    need(PEER)
    fill("plain.raw", 1 << 20)
    for shape in SHAPES:
        options = ",".join(x for x in ("key-secret=k,iter-time=10", shape) if x)
        run(IMG, "convert", *KEYS, "-f", "raw", "-O", "luks", "-o", options, "plain.raw", "ours.luks")
        images = ["ours.luks"]
        if shape in (SHAPES[0], SHAPES[3]):  # the other one measures its speed for long
            peer_img("convert", *KEYS, "-f", "raw", "-O", "luks", "-o", options, "plain.raw", "theirs.luks")
            images.append("theirs.luks")
        for image in images:
            assert facts(IMG, image) == facts(PEER, image), image
            for tool in (IMG, PEER):
                run(tool, "convert", *KEYS, *luks(image), "-O", "raw", "back.raw")
                same("plain.raw", "back.raw")
            writes = ["-c", "write -P 5 3k 512", "-c", "write -P 6 100k 300k", "-c", "write -z 512k 64k"]
            reads = ["-c", "read -P 5 3k 512", "-c", "read -P 6 100k 300k", "-c", "read -P 0 512k 64k"]
            for writer, reader in ((IO, PEER_IO), (PEER_IO, IO)):
                run(writer, *KEYS, *writes, *luks(image))
                assert "failed" not in run(reader, *KEYS, *reads, *luks(image))


def test_luks_cryptsetup():
    need(True, CRYPTSETUP)
    with open("key", "w") as f:
        f.write("open sesame")
    keyfile = ["--key-file", "key"]
    opened = 0
    for shape in SHAPES:
        options = ",".join(x for x in ("key-secret=k,iter-time=10", shape) if x)
        run(IMG, "create", "-q", *KEYS, "-f", "luks", "-o", options, "a.luks", "1M")
        run(CRYPTSETUP, "luksDump", "a.luks")
        done = subprocess.run([CRYPTSETUP, "open", "--test-passphrase", *keyfile, "a.luks"], capture_output=True, text=True)
        opened += done.returncode == 0
        # Ciphers that the host's kernel lacks are asked of a device mapper, which may not be there.
        assert done.returncode == 0 or "device-mapper" in done.stderr or "cipher" in done.stderr, (shape, done)
    assert opened >= 3
    for cipher, bits in (("aes-xts-plain64", 512), ("aes-cbc-essiv:sha256", 256), ("aes-cbc-plain", 128)):
        with open("c.luks", "wb") as f:
            f.truncate(4 << 20)
        run(CRYPTSETUP, "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--cipher", cipher,
            "--key-size", str(bits), "c.luks", "key")
        run(IO, *KEYS, "-c", "write -P 3 0 64k", "-c", "read -P 3 0 64k", *luks("c.luks"))
        run(IMG, "amend", *KEYS, "-o", "state=active,new-secret=n,iter-time=10", *luks("c.luks"))
        assert "Key Slot 1: ENABLED" in run(CRYPTSETUP, "luksDump", "c.luks")
        run(CRYPTSETUP, "luksKillSlot", "-q", *keyfile, "c.luks", "1")
        assert "Key Slot 1: DISABLED" in run(CRYPTSETUP, "luksDump", "c.luks")
        run(IO, *KEYS, "-c", "read 0 512", *luks("c.luks", "n"), code=1)
        run(IO, *KEYS, "-c", "read -P 3 0 64k", *luks("c.luks"))


def test_luks_detached():
    """The header in one image, the data in another: as cryptsetup makes and reads them, and as a volume in one piece."""
    run(IMG, "create", "-q", *KEYS, "-f", "luks", "-o", "key-secret=k,iter-time=10,detached-header=on", "h.luks", "0")
    with open("data.raw", "wb") as f:
        f.truncate(4 << 20)
    both = ["--image-opts", "driver=luks,key-secret=k,file.driver=file,file.filename=data.raw,header.driver=file,"
            "header.filename=h.luks"]
    assert "failed" not in run(IO, *KEYS, "-c", "write -P 3 1M 64k", "-c", "read -P 3 1M 64k", *both)
    with open("data.raw", "rb") as f:
        assert f.seek(1 << 20) and f.read(64) != b"\x03" * 64
    assert "detached" in run(IO, *KEYS, "-c", "read 0 512", *luks("h.luks"), code=1)
    assert "size" in run(IMG, "create", *KEYS, "-f", "luks", "-o", "key-secret=k,detached-header=on", "x.luks", "1M", code=1)
    # One piece, cut in two by hand.
    run(IMG, "create", "-q", *KEYS, "-f", "luks", "-o", "key-secret=k,iter-time=10", "one.luks", "1M")
    run(IO, *KEYS, "-c", "write -P 9 64k 64k", *luks("one.luks"))
    with open("one.luks", "rb") as f:
        whole = bytearray(f.read())
    cut = int.from_bytes(whole[104:108], "big") * 512
    with open("data.raw", "wb") as f:
        f.write(whole[cut:])
    whole[104:108] = bytes(4)
    with open("h.luks", "wb") as f:
        f.write(whole[:cut])
    assert "failed" not in run(IO, *KEYS, "-c", "read -P 9 64k 64k", *both)
    if CRYPTSETUP:
        run(CRYPTSETUP, "luksDump", "h.luks")
        with open("key", "w") as f:
            f.write("open sesame")
        for name, size in (("h.luks", 4 << 20), ("data.raw", 2 << 20)):
            with open(name, "wb") as f:
                f.truncate(size)
        run(CRYPTSETUP, "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--header", "h.luks",
            "data.raw", "key")
        assert "failed" not in run(IO, *KEYS, "-c", "write -P 5 0 64k", "-c", "read -P 5 0 64k", *both)


AMENDMENTS = (
    ("state=active", "'new-secret'"), ("state=active,new-secret=n,keyslot=9", "between 0 and 7"),
    ("state=active,new-secret=n,keyslot=0", "Refusing to overwrite active keyslot 0"),
    ("state=active,new-secret=n,old-secret=n", "'old-secret'"),
    ("state=inactive", "keyslot"), ("state=inactive,keyslot=5", "is empty already"),
    ("state=inactive,keyslot=1,old-secret=k", "not opened by this old password"),
    ("state=inactive,old-secret=zz", "No secret with id 'zz'"),
    ("state=inactive,old-secret=n,new-secret=k", "'new-secret'"),
    ("state=inactive,keyslot=0", "the only active keyslot 0"), ("state=inactive,old-secret=k", "All the active keyslots match"),
    ("state=inactive,old-secret=n", "No keyslots match"), ("state=zzz", "does not accept value 'zzz'"),
    ("new-secret=n", "is missing"), ("key-secret=k", "Invalid parameter"), ("iter-time=10", "is missing"),
    ("state=inactive,iter-time=1,keyslot=1", "'iter-time'"),
)


def slots(path):
    return [s["active"] for s in facts(IMG, path)["format-specific"]["data"]["slots"]]


def test_luks_slots():
    run(IMG, "create", "-q", *KEYS, "-f", "luks", "-o", "key-secret=k,iter-time=10", "a.luks", "1M")
    run(IO, *KEYS, "-c", "write -P 9 0 1M", *luks("a.luks"))

    def amend(options, *more, secret="k", code=0):
        return run(IMG, "amend", *KEYS, *more, "-o", options, *luks("a.luks", secret), code=code)

    for options, why in AMENDMENTS:
        text = amend(options, code=1)
        assert why in text, (options, text)
        if PEER:
            done = subprocess.run([PEER, "amend", *KEYS, "-o", options, *luks("a.luks")], capture_output=True, text=True)
            assert done.returncode == 1, (options, done.stderr) # its words are its own
    for _ in range(7):
        amend("state=active,new-secret=n,iter-time=10")
    assert "all keyslots are in use" in amend("state=active,new-secret=n", code=1)
    amend("state=inactive,keyslot=3")
    assert slots("a.luks") == [True] * 3 + [False] + [True] * 4
    amend("state=active,new-secret=k,keyslot=5,iter-time=10", "--force")
    amend("state=inactive,old-secret=n", secret="n")
    assert slots("a.luks") == [True] + [False] * 4 + [True] + [False] * 2
    assert "Invalid password" in run(IO, *KEYS, "-c", "read 0 512", *luks("a.luks", "n"), code=1)
    for tool in (IO, PEER_IO):
        if tool:
            assert "failed" not in run(tool, *KEYS, "-c", "read -P 9 0 1M", *luks("a.luks"))
    amend("state=inactive,old-secret=k", "--force")
    assert not any(slots("a.luks"))
    assert "Invalid password" in run(IO, *KEYS, "-c", "read 0 512", *luks("a.luks"), code=1)


def test_luks_image_commands():
    run(IMG, "create", "-q", *KEYS, "-f", "luks", "-o", "key-secret=k,iter-time=10", "a.luks", "1M")
    whole = os.path.getsize("a.luks")
    assert "file format: luks" in run(IMG, "info", "a.luks")
    for argv in (["map", "a.luks"], ["compare", "a.luks", "a.luks"], ["resize", "a.luks", "2M"]):
        assert "name its secret in 'key-secret'" in run(IMG, *argv, code=2 if argv[0] == "compare" else 1), argv
    assert "No secret with id" in run(IMG, "map", *luks("a.luks"), code=1)
    assert "Invalid password" in run(IMG, "map", *KEYS, *luks("a.luks", "w"), code=1)
    run(IO, *KEYS, "-c", "write -P 7 0 1M", *luks("a.luks"))
    run(IMG, "resize", "-q", *KEYS, *luks("a.luks"), "+1M")
    assert os.path.getsize("a.luks") == whole + (1 << 20)
    run(IO, *KEYS, "-c", "read -P 7 0 1M", "-c", "write -P 8 1M 1M", "-c", "read -P 8 1M 1M", *luks("a.luks"))
    run(IMG, "resize", "-q", "--shrink", *KEYS, *luks("a.luks"), "512k")
    assert os.path.getsize("a.luks") == whole - (1 << 19)
    assert run(IMG, "measure", "-O", "luks", "--size", "1G").startswith("required size: 1075810304\n")
    # An image that cannot be made is not left behind.
    os.unlink("a.luks")
    for options, why in (("iter-time=10", "name its secret in 'key-secret'"), ("key-secret=zz", "No secret"),
                         ("key-secret=k,cipher-alg=des", "'des'"), ("key-secret=k,hash-alg=x", "'x'"),
                         ("key-secret=k,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha1", "aes-160"),
                         ("key-secret=k,iter-time=0", "iter-time")):
        text = run(IMG, "create", "-q", *KEYS, "-f", "luks", "-o", options, "a.luks", "1M", code=1)
        assert why in text and not os.path.exists("a.luks"), (options, text)
    # A backing image that is encrypted, opened by options.
    run(IMG, "create", "-q", *KEYS, "-f", "luks", "-o", "key-secret=k,iter-time=10", "a.luks", "1M")
    run(IO, *KEYS, "-c", "write -P 7 0 1M", *luks("a.luks"))
    run(IMG, "create", "-q", "-f", "qcow2", "-u", "-b", "a.luks", "-F", "luks", "top.qcow2", "1M")
    run(IO, *KEYS, "-c", "read -P 7 0 1M", "--image-opts", "driver=qcow2,file.filename=top.qcow2,backing.key-secret=k")


def test_luks_hostile():
    """Headers with one field changed: an error or the right data, never a crash, a hang or much memory."""
    run(IMG, "create", "-q", *KEYS, "-f", "luks", "-o", "key-secret=k,iter-time=10", "good.luks", "64k")
    with open("good.luks", "rb") as f:
        good = f.read()
    cases = [(104, ">I", 0, "header is detached"), (104, ">I", 1, "begin inside the LUKS header"), (104, ">I", 0xffffffff, "cut off"), (104, ">I", 8, "reaches into the encrypted data"),
             (108, ">I", 0, "key size 0"), (108, ">I", 0x7fffffff, "key size"), (164, ">I", 0, "is zero"),
             (164, ">I", 0xffffffff, "iteration count"), (208, ">I", 7, "neither active nor inactive"), (212, ">I", 0, "is zero"),
             (212, ">I", 0xffffffff, "iteration count"), (248, ">I", 0, "lies in the LUKS header"),
             (248, ">I", 0xfffffff0, "reaches into"), (252, ">I", 0xffffffff, "stripes"), (252, ">I", 1, "stripes"),
             (248 + 48, ">I", 9, "share a place"), (6, ">H", 2, "LUKS version 2"), (8, "32s", b"a" * 32, "NUL"),
             (40, "32s", b"xts", "MODE-IVGEN"), (40, "32s", b"xts-nope", "'nope'"), (40, "32s", b"cbc-essiv", "essiv needs a hash"),
             (40, "32s", b"cbc-essiv:nope", "'nope'"), (72, "32s", b"", "''"), (8, "32s", b"", "''"), (8, "32s", b"ae", "'ae'"),
             (168, "40s", b"u" * 40, "NUL"), (112, "B", good[112] ^ 1, "Invalid password"),
             (216, "B", good[216] ^ 1, "Invalid password"), (4096, "B", good[4096] ^ 1, "Invalid password")]
    for offset, kind, value, why in cases:
        bad = bytearray(good)
        struct.pack_into(kind, bad, offset, value)
        with open("bad.luks", "wb") as f:
            f.write(bad)
        text = run(IO, *KEYS, "-r", "-c", "read 0 512", *luks("bad.luks"), code=1)
        assert why in text, (offset, value, text)
    for length in (0, 6, 591, 4096, 100000, 2068479):
        with open("bad.luks", "wb") as f:
            f.write(good[:length])
        run(IO, *KEYS, "-r", "-c", "read 0 512", *luks("bad.luks"), code=1)
    rng = random.Random(1)
    for _ in range(int(os.environ.get("FUZZ_ROUNDS", 60))):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(592)
            if 164 <= at < 168 or at >= 208 and 4 <= (at - 208) % 48 < 8:
                continue  # many iterations are slow by right
            bad[at] = rng.randrange(256)
        with open("bad.luks", "wb") as f:
            f.write(bad)
        done = subprocess.run([IO, *KEYS, "-r", "-c", "read 0 512", *luks("bad.luks")], capture_output=True, timeout=60)
        assert done.returncode in (0, 1), done
        done = subprocess.run([IMG, "info", "bad.luks"], capture_output=True, timeout=60)
        assert done.returncode in (0, 1), done


def qcow2(path, secret="k", more=""):
    return ["--image-opts", f"driver=qcow2,encrypt.key-secret={secret},file.filename={path}{more}"]


LUKS_IN = "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10"
QCOW2_SHAPES = (LUKS_IN, "encrypt.format=aes,encrypt.key-secret=k", "encryption=on,encrypt.key-secret=k",
                LUKS_IN + ",cluster_size=512", LUKS_IN + ",cluster_size=2M", LUKS_IN + ",compat=0.10",
                LUKS_IN + ",extended_l2=on,cluster_size=16k", LUKS_IN + ",refcount_bits=1", LUKS_IN + ",lazy_refcounts=on",
                LUKS_IN + ",encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.cipher-alg=aes-128",
                LUKS_IN + ",data_file=x.data", "encrypt.format=aes,encrypt.key-secret=k,compat=0.10,cluster_size=4k")


def check_both(image):
    for tool in (IMG, PEER):
        assert "No errors" in run(tool, "check", *KEYS, *qcow2(image))


def test_qcow2_both_ways():
    need(PEER)
    fill("plain.raw", 1 << 20)
    for number, shape in enumerate(QCOW2_SHAPES):
        run(IMG, "convert", *KEYS, "-f", "raw", "-O", "qcow2", "-o", shape, "plain.raw", "ours.qcow2")
        images = ["ours.qcow2"]
        if number < 3 or "aes," in shape:
            peer_img("convert", *KEYS, "-f", "raw", "-O", "qcow2", "-o", shape, "plain.raw", "theirs.qcow2")
            images.append("theirs.qcow2")
        for image in images:
            assert facts(IMG, image) == facts(PEER, image), image
            maps = [tap.old_map(run(tool, "map", "--output=json", *KEYS, *qcow2(image))) for tool in (IMG, PEER)]
            assert maps[0] == maps[1], image
            check_both(image)
            for tool in (IMG, PEER):
                run(tool, "convert", *KEYS, *qcow2(image), "-O", "raw", "back.raw")
                same("plain.raw", "back.raw")
            for writer, reader in ((IO, PEER_IO), (PEER_IO, IO)):
                run(writer, *KEYS, "-c", "write -P 5 3k 512", "-c", "write -P 6 100k 300k", "-c", "write -z 512k 64k",
                    "-c", "discard 640k 64k", *qcow2(image))
                assert "failed" not in run(reader, *KEYS, "-c", "read -P 5 3k 512", "-c", "read -P 6 100k 300k",
                                           "-c", "read -P 0 512k 64k", *qcow2(image))
            check_both(image)


def test_qcow2_life():
    """Snapshots, sizes, backing files, commit and rebase of encrypted images, judged by the other program."""
    need(PEER)
    for shape in (LUKS_IN, "encrypt.format=aes,encrypt.key-secret=k", LUKS_IN + ",cluster_size=4k"):
        run(IMG, "create", "-q", *KEYS, "-f", "qcow2", "-o", shape, "a.qcow2", "2M")
        run(IO, *KEYS, "-c", "write -P 1 0 1M", *qcow2("a.qcow2"))
        run(IMG, "snapshot", *KEYS, "-c", "one", *qcow2("a.qcow2"))
        run(IO, *KEYS, "-c", "write -P 2 512k 1M", "-c", "write -P 3 1k 512", *qcow2("a.qcow2"))
        check_both("a.qcow2")
        run(IMG, "snapshot", *KEYS, "-c", "two", *qcow2("a.qcow2"))
        run(PEER, "snapshot", *KEYS, "-a", "one", *qcow2("a.qcow2"))
        run(IO, *KEYS, "-c", "read -P 1 0 1M", "-c", "read -P 0 1M 1M", *qcow2("a.qcow2"))
        run(IMG, "snapshot", *KEYS, "-a", "two", *qcow2("a.qcow2"))
        state = ["-c", "read -P 3 1k 512", "-c", "read -P 1 2k 510k", "-c", "read -P 2 512k 1M"]
        assert "failed" not in run(PEER_IO, *KEYS, *state, *qcow2("a.qcow2"))
        run(IMG, "snapshot", *KEYS, "-d", "one", *qcow2("a.qcow2"))
        run(IMG, "snapshot", *KEYS, "-d", "two", *qcow2("a.qcow2"))
        run(IMG, "resize", "-q", *KEYS, *qcow2("a.qcow2"), "3M")
        run(IO, *KEYS, "-c", "write -P 4 2560k 512k", *qcow2("a.qcow2"))
        run(IMG, "resize", "-q", "--shrink", *KEYS, *qcow2("a.qcow2"), "2M")
        check_both("a.qcow2")
        assert "failed" not in run(PEER_IO, *KEYS, *state, *qcow2("a.qcow2"))
        # An overlay that is encrypted too, with another pass phrase.
        base = 'json:{"driver":"qcow2","encrypt.key-secret":"k","file.filename":"a.qcow2"}'
        run(IMG, "create", "-q", *KEYS, "-f", "qcow2", "-o", shape.replace("key-secret=k", "key-secret=n"), "-b", base,
            "-F", "qcow2", "top.qcow2")
        run(IO, *KEYS, "-c", "write -P 9 2k 1k", *qcow2("top.qcow2", "n"))
        above = ["-c", "read -P 9 2k 1k", "-c", "read -P 3 1k 512", "-c", "read -P 2 512k 1M"]
        for tool in (IO, PEER_IO):
            assert "failed" not in run(tool, *KEYS, *above, *qcow2("top.qcow2", "n"))
        run(IMG, "convert", *KEYS, *qcow2("top.qcow2", "n"), "-O", "raw", "before.raw")
        run(IMG, "rebase", *KEYS, *qcow2("top.qcow2", "n"), "-b", "")
        run(PEER, "convert", *KEYS, *qcow2("top.qcow2", "n"), "-O", "raw", "after.raw")
        same("before.raw", "after.raw")
        run(IMG, "rebase", "-u", *KEYS, *qcow2("top.qcow2", "n"), "-b", base, "-F", "qcow2")
        run(IMG, "commit", "-q", *KEYS, *qcow2("top.qcow2", "n"))
        run(PEER, "convert", *KEYS, *qcow2("a.qcow2"), "-O", "raw", "after.raw")
        same("before.raw", "after.raw")
        check_both("a.qcow2")


def test_qcow2_options():
    def refused(why, *argv):
        text = run(IMG, *argv, code=1)
        assert why in text, (argv, text)

    def create(options, why):
        refused(why, "create", "-q", *KEYS, "-f", "qcow2", "-o", options, "x.qcow2", "1M")
        assert not os.path.exists("x.qcow2")

    create("encrypt.format=luks", "name its secret in 'encrypt.key-secret'")
    create("encrypt.format=aes", "name its secret in 'encrypt.key-secret'")
    create("encrypt.key-secret=k", "'encrypt.format' is missing")
    create("encrypt.format=foo,encrypt.key-secret=k", "does not accept value 'foo'")
    create("encryption=on,encrypt.format=luks,encrypt.key-secret=k", "can't be used at the same time")
    create("encrypt.format=aes,encrypt.key-secret=k,encrypt.iter-time=10", "'encrypt.iter-time' is unknown")
    create("encrypt.format=luks,encrypt.key-secret=zz", "No secret with id 'zz'")
    run(IMG, "create", "-q", *KEYS, "-f", "qcow2", "-o", LUKS_IN, "l.qcow2", "1M")
    run(IMG, "create", "-q", *KEYS, "-f", "qcow2", "-o", "encryption=on,encrypt.key-secret=k", "a.qcow2", "1M")
    run(IMG, "create", "-q", "-f", "qcow2", "p.qcow2", "1M")
    assert "encrypted: yes" in run(IMG, "info", "l.qcow2") and "format: aes" in run(IMG, "info", "a.qcow2")
    for command in ("check", "map", "snapshot"):
        refused("name its secret in 'encrypt.key-secret'", command, "l.qcow2")
    refused("Invalid password", "map", *KEYS, *qcow2("l.qcow2", "w"))
    refused("options specify 'aes'", "map", *KEYS, *qcow2("l.qcow2", "k", ",encrypt.format=aes"))
    refused("options specify 'luks'", "map", *KEYS, *qcow2("a.qcow2", "k", ",encrypt.format=luks"))
    refused("encryption of format 'luks'", "map", *KEYS, *qcow2("p.qcow2", "k", ",encrypt.format=luks"))
    refused("not encrypted, so it has no", "amend", *KEYS, "-o", "encrypt.state=active,encrypt.new-secret=n", "p.qcow2")
    refused("in images with LUKS only", "amend", *KEYS, "-o", "encrypt.state=active,encrypt.new-secret=n", *qcow2("a.qcow2"))
    refused("only supported for image creation", "amend", *KEYS, "-o", "encrypt.format=luks", *qcow2("l.qcow2"))
    refused("compressed and encrypted", "convert", "-c", *KEYS, "-O", "qcow2", "-o", LUKS_IN, "p.qcow2", "x.qcow2")
    run(IMG, "amend", *KEYS, "-o", "encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10", *qcow2("l.qcow2"))
    run(IO, *KEYS, "-c", "write -P 3 0 1M", *qcow2("l.qcow2", "n"))
    run(IMG, "amend", *KEYS, "-o", "encrypt.state=inactive,encrypt.keyslot=0", *qcow2("l.qcow2"))
    refused("Invalid password", "map", *KEYS, *qcow2("l.qcow2"))
    run(IMG, "amend", *KEYS, "-o", "compat=0.10", *qcow2("l.qcow2", "n"))
    run(IMG, "amend", *KEYS, "-o", "compat=1.1,refcount_bits=64,lazy_refcounts=on", *qcow2("l.qcow2", "n"))
    assert "failed" not in run(PEER_IO or IO, *KEYS, "-c", "read -P 3 0 1M", *qcow2("l.qcow2", "n"))
    assert "No errors" in run(PEER or IMG, "check", *KEYS, *qcow2("l.qcow2", "n"))
    sizes = run(IMG, "measure", "-O", "qcow2", "--size", "1G", *KEYS, "-o", LUKS_IN)
    assert sizes == "required size: 2490368\nfully allocated size: 1076232192\n", sizes


def test_qcow2_hostile():
    run(IMG, "create", "-q", *KEYS, "-f", "qcow2", "-o", LUKS_IN, "good.qcow2", "1M")
    with open("good.qcow2", "rb") as f:
        good = f.read()
    at = good.index(b"\x05\x37\xbe\x77") + 4
    luks_at, = struct.unpack_from(">Q", good, at + 4)
    for offset, kind, value, why in (
            (at, ">I", 8, "size 8"), (at + 4, ">Q", 0, "not a multiple"), (at + 4, ">Q", 512, "not a multiple"),
            (at + 4, ">Q", 1 << 62, "beyond the end"), (at + 12, ">Q", 1 << 63, "beyond the end"),
            (at + 12, ">Q", 100, "LUKS header"), (at - 4, ">I", 0x12345678, "Missing CRYPTO"), (32, ">I", 3, "method 3"),
            (32, ">I", 0xffffffff, "method"), (luks_at, ">I", 0, "no LUKS volume"), (at + 12, ">Q", 8192, "beyond the end")):
        bad = bytearray(good)
        struct.pack_into(kind, bad, offset, value)
        with open("bad.qcow2", "wb") as f:
            f.write(bad)
        text = run(IO, *KEYS, "-c", "read 0 512", *qcow2("bad.qcow2"), code=1)
        assert why in text, (offset, value, text)
    # The header among the tables: found before anything is written over it.
    bad = bytearray(good)
    struct.pack_into(">Q", bad, 40, luks_at)
    with open("bad.qcow2", "wb") as f:
        f.write(bad)
    assert run(IMG, "check", *KEYS, *qcow2("bad.qcow2"), code=2)


def qcow(path, more=""):
    return ["--image-opts", f"driver=qcow,file.filename={path}{more}"]


def test_qcow():
    """The first version: encrypted, packed, over a backing file, both ways."""
    need(PEER)
    key = ",encrypt.key-secret=k"
    with open("plain.raw", "wb") as f:
        f.write(random.Random(5).randbytes(300000) + b"all work and no play " * 20000 + bytes(1 << 20))
        f.truncate(2 << 20)
    for options, more in (("encryption=on" + key, key), ("encrypt.format=aes" + key, key), ("-c", "")):
        how = ["-c"] if options == "-c" else ["-o", options]
        for maker in (IMG, PEER)[:1 if options == "-c" else 2]:  # the other one cannot pack here
            run(maker, "convert", *KEYS, *how, "-f", "raw", "-O", "qcow", "plain.raw", "a.qcow")
            for tool in (IMG, PEER):
                run(tool, "convert", *KEYS, *qcow("a.qcow", more), "-O", "raw", "back.raw")
                same("plain.raw", "back.raw")
            for writer in (IO, PEER_IO):
                run(writer, *KEYS, "-c", "write -P 5 3k 512", "-c", "write -P 6 400k 5000", "-c", "write -z 512k 64k", *qcow("a.qcow", more))
                run(IMG, "convert", *KEYS, *qcow("a.qcow", more), "-O", "raw", "ours.raw")
                run(PEER, "convert", *KEYS, *qcow("a.qcow", more), "-O", "raw", "theirs.raw")
                same("ours.raw", "theirs.raw")
    assert "encrypted: yes" in run(IMG, "info", "a.qcow") or not more
    run(IMG, "create", "-q", "-f", "qcow", "-b", "plain.raw", "-F", "raw", "top.qcow")
    run(IO, "-c", "write -P 9 1000 100", *qcow("top.qcow", ",backing.driver=raw,backing.file.filename=plain.raw"))
    for tool in (IO, PEER_IO):
        assert "failed" not in run(tool, "-c", "read -P 9 1000 100", "-c", "read -P 0 1M 64k",
                                   *qcow("top.qcow", ",backing.driver=raw,backing.file.filename=plain.raw"))
    assert "compressed and encrypted" in run(IMG, "convert", "-c", *KEYS, "-f", "raw", "-O", "qcow", "-o", "encryption=on" + key,
                                               "plain.raw", "x.qcow", code=1)
    for options, why in (("encryption=on", "name its secret in"), ("encrypt.format=luks", "'luks'"),
                         ("encrypt.key-secret=k", "is missing")):
        assert why in run(IMG, "create", "-q", *KEYS, "-f", "qcow", "-o", options, "x.qcow", "1M", code=1)
    run(IMG, "create", "-q", "-f", "qcow", "good.qcow", "1M")
    with open("good.qcow", "rb") as f:
        good = f.read()
    for offset, kind, value in ((24, ">Q", 0), (24, ">Q", 1 << 63), (24, ">Q", 1 << 62), (32, "B", 8), (32, "B", 60), (33, "B", 2),
                                (33, "B", 60), (36, ">I", 2), (40, ">Q", 3), (40, ">Q", 1 << 63), (8, ">Q", 1 << 63),
                                (4, ">I", 7), (16, ">I", 5000)):
        bad = bytearray(good)
        struct.pack_into(kind, bad, offset, value)
        struct.pack_into(">Q", bad, 8, value if offset == 8 else 48 if offset == 16 else 0)
        with open("bad.qcow", "wb") as f:
            f.write(bad)
        run(IMG, "info", "-f", "qcow", "bad.qcow", code=1)
    rng = random.Random(1)
    for _ in range(int(os.environ.get("FUZZ_ROUNDS", 60))):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 5)):
            bad[rng.randrange(200)] = rng.randrange(256)
        with open("bad.qcow", "wb") as f:
            f.write(bad)
        done = subprocess.run([IO, "-f", "qcow", "-c", "read 0 4k", "-c", "write 0 1k", "bad.qcow"], capture_output=True, timeout=60)
        assert done.returncode in (0, 1), done


tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
