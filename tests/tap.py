"""Test programs in Python: their functions run in order, what happened is printed as TAP ("ok 1 name", "not ok", "# SKIP").

    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import tap

    def test_reading(): ...

    tap.run(tap.tests_in(globals()), names=sys.argv[2:], call=tap.in_scratch)"""
import json
import os
import sys
import tempfile
import time
import traceback


class Skip(Exception):
    """Raised by a test that cannot run here, with what is missing."""


def tests_in(names):
    """The functions called test_... of a module's globals(), in the order of their names."""
    return [function for name, function in sorted(names.items()) if name.startswith('test_')]


def in_scratch(test):
    """Runs the test in a directory of its own, which goes with it."""
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            test()
        finally:
            os.chdir('/')


def name_of(test):
    return test.__name__.removeprefix('test_')


def old_map(text):
    """What `qemu-img map --output=json` says, as older versions say it: without "compressed"."""
    return [{key: value for key, value in extent.items() if key != 'compressed'} for extent in json.loads(text)]


def run(tests, names=(), call=lambda test: test()):
    """Runs the tests, those in `names` only when there are any, and exits: 1 when one failed."""
    chosen = [test for test in tests if not names or test.__name__ in names or name_of(test) in names]
    print(f'1..{len(chosen)}', flush=True)
    failed = 0
    for number, test in enumerate(chosen, 1):
        start = time.time()
        try:
            call(test)
            print(f'ok {number} {name_of(test)} # {time.time() - start:.1f} s', flush=True)
        except Skip as reason:
            print(f'ok {number} {name_of(test)} # SKIP {reason}', flush=True)
        except (Exception, SystemExit) as problem:  # the others run all the same
            failed += 1
            print(f'not ok {number} {name_of(test)}', flush=True)
            text = str(problem) if str(problem) and not isinstance(problem, AssertionError) \
                else ''.join(traceback.format_exception(problem))
            print('\n'.join('# ' + line for line in text[-6000:].splitlines()), flush=True)
    sys.exit(1 if failed else 0)
