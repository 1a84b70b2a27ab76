"""Debian packages as test input, of any architecture and without installing them: downloaded by apt with a configuration of
its own (the machine's apt knows nothing of it), unpacked into a cache, $OSTRICH_TEST_CACHE or ~/.cache/ostrich-tests."""
import fcntl
import glob
import os
import re
import shutil
import subprocess
import time

from guest import Skip

RELEASE = 'bookworm'
KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
LISTS_AGE = 24 * 3600


def cache_dir():
    path = os.environ.get('OSTRICH_TEST_CACHE') or os.path.expanduser('~/.cache/ostrich-tests')
    os.makedirs(path, exist_ok=True)
    return path


def mirror():
    """The address from which this machine gets its own Debian packages."""
    for path in ['/etc/apt/sources.list', *sorted(glob.glob('/etc/apt/sources.list.d/*'))]:
        if not path.endswith(('.list', '.sources')) or not os.path.exists(path):
            continue
        with open(path) as f:
            text = f.read()
        for match in re.finditer(r'^(?:URIs:|deb\s+(?:\[.*?\])?)\s*(\S+/debian)/?(?:\s|$)', text, re.M):
            return match.group(1)
    raise Skip('no Debian mirror in the apt configuration')


class Apt:
    def __init__(self):
        self.root = os.path.join(cache_dir(), 'apt')
        for name in ('state/lists/partial', 'cache/archives/partial', 'parts'):
            os.makedirs(os.path.join(self.root, name), exist_ok=True)
        open(self._path('state/status'), 'a').close()
        with open(self._path('apt.conf'), 'w') as f:
            f.write(f'Dir::State "{self._path("state")}";\nDir::State::status "{self._path("state/status")}";\n'
                    f'Dir::Cache "{self._path("cache")}";\nDir::Etc::sourcelist "{self._path("sources.list")}";\n'
                    f'Dir::Etc::sourceparts "{self._path("parts")}";\nAPT::Architectures {{"amd64";"i386";}};\n'
                    'APT::Sandbox::User "root";\n')
        with open(self._path('sources.list'), 'w') as f:
            f.write(f'deb [signed-by={KEYRING}] {mirror()} {RELEASE} main\n')
        self.environment = dict(os.environ, APT_CONFIG=self._path('apt.conf'), LC_ALL='C')
        stamp = self._path('updated')
        if not os.path.exists(stamp) or time.time() - os.path.getmtime(stamp) > LISTS_AGE:
            self.run('apt-get', 'update', '-q')
            open(stamp, 'w').close()

    def _path(self, name):
        return os.path.join(self.root, name)

    def run(self, *command, cwd=None):
        result = subprocess.run(command, env=self.environment, cwd=cwd, capture_output=True, text=True)
        if result.returncode:
            raise Skip(f'{" ".join(command)}: {(result.stderr.strip().splitlines() or ["failed"])[-1]}')
        return result.stdout


def package(name, architecture='amd64'):
    """Directory with the unpacked files of a package. Of a package that is nothing but a name for the newest kernel, those of
    the kernel."""
    if not shutil.which('apt-get'):
        raise Skip('no apt-get')
    with open(os.path.join(cache_dir(), 'lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        apt = Apt()
        # apt takes no architecture behind the name of a package that is for all of them.
        suffix = '' if architecture == 'all' else f':{architecture}'
        about = apt.run('apt-cache', 'show', '--no-all-versions', name + suffix)
        kernel = re.search(r'^Depends: (linux-image-[0-9]\S*)', about, re.M)
        if kernel:
            name = kernel.group(1)
            about = apt.run('apt-cache', 'show', '--no-all-versions', name + suffix)
        version = re.search(r'^Version: (\S+)', about, re.M).group(1)
        target = os.path.join(cache_dir(), f'{name}_{version.replace(":", "%3a")}_{architecture}')
        if not os.path.isdir(target):
            work = target + '.part'
            shutil.rmtree(work, ignore_errors=True)
            os.makedirs(work)
            apt.run('apt-get', 'download', '-q', name + suffix, cwd=work)
            deb = glob.glob(os.path.join(work, '*.deb'))[0]
            subprocess.run(['dpkg-deb', '-x', deb, os.path.join(work, 'files')], check=True)
            os.rename(os.path.join(work, 'files'), target)
            shutil.rmtree(work)
    return target


def one_file(directory, pattern):
    """The one file below the directory that matches."""
    found = sorted(glob.glob(os.path.join(directory, pattern), recursive=True))
    if not found:
        raise Skip(f'no {pattern} in {directory}')
    return found[-1]
