#!/usr/bin/env python3
"""Objects of the image programs, and encrypted images, against another qemu-img.

usage: crypto_test.py OUR-QEMU-IMG OUR-QEMU-IO OUR-QEMU-NBD [TEST...]
"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

IMG, IO, NBD = (os.path.abspath(p) for p in sys.argv[1:4])


def run(*argv, code=0):
    """What a program said, on either stream."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    if done.returncode != code:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}, expected {code}\n{done.stdout}")
    return done.stdout


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
    bad = (("secret,id=k", "Either 'file' or 'data'"), ("secret,data=x", "Parameter 'id' is missing"),
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


tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
