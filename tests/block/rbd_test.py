#!/usr/bin/env python3
"""The rbd driver without a cluster: names and options, and that a cluster which is not there is an error, not a hang.

usage: rbd_test.py OUR-QEMU-IMG [TEST...]
"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

IMG = os.path.abspath(sys.argv[1])
NOWHERE = ":mon_host=127.0.0.1\\:1:rados_mon_op_timeout=1:client_mount_timeout=1"


def fails(*argv):
    done = subprocess.run([IMG, "info", *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, (argv, done.returncode, done.stdout, done.stderr)
    if "cannot be loaded" in done.stderr:
        raise tap.Skip("no librbd")
    return done.stderr


def test_errors():
    assert "could not connect" in fails("rbd:pool/image" + NOWHERE)
    assert "could not connect" in fails("rbd:pool/space/image@snapshot:id=me" + NOWHERE)
    assert "no setting 'nosuch'" in fails("rbd:pool/image:nosuch=1" + NOWHERE)
    assert "could not read the configuration" in fails("rbd:pool/image:conf=/nowhere")
    assert "rbd:POOL/" in fails("rbd:pool")
    assert "needs 'image'" in fails("--image-opts", "driver=rbd,pool=p")


tap.run(tap.tests_in(globals()), names=sys.argv[2:], call=tap.in_scratch)
