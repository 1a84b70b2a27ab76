#!/usr/bin/env python3
"""Makes the corpus and runs image-fuzz on it.

usage: image_fuzz_test.py IMAGE_FUZZ QEMU_IMG QEMU_IO COUNT
FUZZ_SEED chooses the mutations; otherwise they are others each time, and the seed is printed.
"""
import os
import subprocess
import sys
import tempfile

FUZZ, IMG, IO = (os.path.abspath(p) for p in sys.argv[1:4])
HERE = os.path.dirname(os.path.abspath(__file__))

with tempfile.TemporaryDirectory(prefix="ostrich-fuzz-") as scratch:
    corpus = os.path.join(scratch, "corpus")
    subprocess.run([sys.executable, os.path.join(HERE, "image_corpus.py"), IMG, IO, corpus], check=True)
    seed = [os.environ["FUZZ_SEED"]] if "FUZZ_SEED" in os.environ else []
    done = subprocess.run([FUZZ, corpus, sys.argv[4], *seed], cwd=os.getcwd())
sys.exit(done.returncode if done.returncode >= 0 else 1)
