#!/usr/bin/env python3
"""What qemu-img prints about options and images. Where another qemu-img is installed, its help is compared.

usage: img_test.py OUR-QEMU-IMG OUR-QEMU-IO
"""
import json
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

IMG, IO = (os.path.abspath(p) for p in sys.argv[1:3])
PEER = shutil.which("qemu-img", path="/usr/bin:/usr/local/bin")


def run(*argv, tool=IMG, code=0):
    done = subprocess.run([tool, *argv], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, (argv, done.returncode, done.stderr)
    return done.stdout if code == 0 else done.stderr


def help_names(text):
    return re.findall(r"^  ([a-z0-9_.-]+)=", text, re.M)


def test_create_help():
    """Sorted; with a file name also what its protocol takes, without one a word that there may be more."""
    for fmt in ("qcow2", "raw", "vmdk"):
        alone, placed = run("create", "-f", fmt, "-o", "help"), run("create", "-f", fmt, "-o", "help", "x.img", "1M")
        assert alone.startswith(f"Supported {fmt} options:\n") and "protocol level" in alone, alone
        assert placed.startswith("Supported options:\n") and "protocol level" not in placed, placed
        names = help_names(placed)
        assert names == sorted(set(names)) and {"nocow", "extent_size_hint"} <= set(names), names
        assert set(help_names(alone)) - set(names) == set()
        assert run("convert", "-O", fmt, "-o", "help", "x.img", "y.img") == placed
        assert run("convert", "-O", fmt, "-o", "size=1M,help") == alone
        if PEER:
            missing = set(help_names(run("create", "-f", fmt, "-o", "help", "x.img", tool=PEER))) - set(names)
            assert not missing, missing
    assert not os.path.exists("x.img")
    assert "does not support image creation" in run("create", "-f", "bochs", "-o", "help", code=1)


def test_option_lists():
    """A comma that separates nothing is refused; two of them are one of the value."""
    for text in ("size=1M,", ",size=1M", ",,", ",", "size=1M,,,"):
        err = run("create", "-f", "qcow2", "-o", text, "x.img", "1M", code=1)
        assert err == f"qemu-img: Invalid option list: {text}\n", err
    run("create", "-f", "qcow2", "-u", "-F", "raw", "-o", "backing_file=a,,", "x.img", "1M")
    assert json.loads(run("info", "--output=json", "x.img"))["backing-filename"] == "a,"


def test_amend_help():
    run("create", "-f", "qcow2", "x.img", "1M")
    text = run("amend", "-f", "qcow2", "-o", "help")
    names = help_names(text)
    assert names == sorted(names) and "lazy_refcounts" in names
    assert run("amend", "-o", "help", "x.img") == text
    assert run("amend", "-o", "cluster_size=4k,help", "x.img") == text
    assert "Expecting one image file name" in run("amend", "-o", "help", code=1)
    assert "does not support option amendment" in run("amend", "-f", "raw", "-o", "help", code=1)


def test_info_children():
    """Every node of an image is told of, under the path to it."""
    run("create", "-f", "qcow2", "-o", "data_file=x.data", "x.img", "1M")
    info = json.loads(run("info", "--output=json", "x.img"))
    children = {child["name"]: child["info"] for child in info["children"]}
    assert set(children) == {"file", "data-file"}, children
    assert children["file"]["format"] == "file" and children["file"]["filename"] == "x.img", children
    assert children["data-file"]["filename"] == "x.data" and children["data-file"]["children"] == [], children
    text = run("info", "x.img")
    assert "\nChild node '/file':\n    filename: x.img\n    protocol type: file\n    file length: " in text, text
    assert "\nChild node '/data-file':\n    filename: x.data\n" in text, text
    nested = run("info", "--image-opts", "driver=raw,file.driver=qcow2,file.file.filename=x.img")
    assert "\nChild node '/file':\n    image: x.img\n    file format: qcow2\n" in nested, nested
    assert "\n    Child node '/file/file':\n        filename: x.img\n        protocol type: file\n" in nested, nested


def test_amend_data_file():
    """The name of the data file can be changed and taken out; that the file is readable by itself only taken back."""
    run("create", "-f", "qcow2", "-o", "data_file=x.data,data_file_raw=on", "x.img", "1M")
    subprocess.run([IO, "-c", "write -P 5 0 1M", "x.img"], check=True, stdout=subprocess.DEVNULL)
    os.rename("x.data", "y.data")
    run("info", "x.img", code=1)
    given = "driver=qcow2,file.filename=x.img,data-file.filename=y.data"
    run("amend", "--image-opts", "-o", "data_file=y.data", given)
    assert run("compare", "-f", "qcow2", "-F", "raw", "x.img", "y.data") == "Images are identical.\n"
    run("amend", "-o", "data_file=,data_file_raw=off", "x.img")
    assert "'data-file' is required" in run("info", "x.img", code=1)
    data = json.loads(run("info", "--output=json", "--image-opts", given))["format-specific"]["data"]
    assert "data-file" not in data and data["data-file-raw"] is False, data
    assert "x.data" not in run("amend", "--image-opts", "-o", "data_file_raw=on", given, code=1)
    run("check", "--image-opts", given)
    if PEER:
        run("check", "--image-opts", given, tool=PEER)
    run("create", "-f", "qcow2", "z.img", "1M")
    run("amend", "-o", "data_file=y.data", "z.img", code=1)
    assert "No such file" in run("info", "--image-opts", "driver=qcow2,file.filename=z.img,data-file.filename=none", code=1)


def test_map_holes():
    """Holes of an external data file are that file's; those of a truncated image are not looked for, of a preallocated one they are."""
    run("create", "-f", "qcow2", "-o", "data_file=x.data,data_file_raw=on", "x.img", "8M")
    entries = json.loads(run("map", "--output=json", "x.img"))
    assert [(e["length"], e["data"], e["zero"], e["offset"]) for e in entries] == [(8 << 20, True, False, 0)], entries
    run("create", "-f", "qcow2", "-o", "preallocation=metadata", "p.img", "8M")
    assert any(e["zero"] for e in json.loads(run("map", "--output=json", "p.img")))
    run("create", "-f", "qcow2", "t.img", "64k")
    subprocess.run([IO, "-c", "write 0 64k", "t.img"], check=True, stdout=subprocess.DEVNULL)
    place = json.loads(run("map", "--output=json", "t.img"))[0]["offset"]
    os.truncate("t.img", place)
    assert [(e["offset"], e["zero"]) for e in json.loads(run("map", "--output=json", "t.img"))] == [(place, False)]


def test_targets_without_driver():
    err = run("create", "-f", "qcow2", 'json:{"a": "b"}', "1M", code=1)
    assert '"driver"' in err, err


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=tap.in_scratch)
