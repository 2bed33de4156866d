# ruff: noqa: E501 (attacks read best one to a line)
"""Attacks on files: new ones, other people's, and those that the next program will read."""

from __future__ import annotations

from reward.sandbox import Limits
from tests.reward.sandbox.hostile.case import Hostile

PROGRAMS = [
    Hostile(
        "litters",
        "for folder in (T['folder'], T['tmp'], '/var/tmp', '/dev/shm', '/', '.', '/proc/self', '/root', '/home'):\n"
        "    got(folder, lambda: open(f\"{folder}/{T['litter']}\", 'w').write('x'))\n",
        control=True,
    ),
    Hostile(
        "leaves other things than files",
        "for folder in (T['folder'], T['tmp'], '/dev/shm', '.'):\n"
        "    p = f\"{folder}/{T['litter']}\"\n"
        "    got('dir', os.mkdir, p); got('link', os.symlink, '/', p); got('fifo', os.mkfifo, p); got('node', os.mknod, p)\n"
        "    got('hard', os.link, T['victim'], p); got('tmpfile', lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR))\n"
        "    got('mkdirat', syscall, 258, -100, p.encode(), 0o777); got('creat', syscall, 85, p.encode(), 0o666)",
    ),
    Hostile("overwrites a file", "got('victim', lambda: open(T['victim'], 'w').write('gone'))", control=True),
    Hostile(
        "spoils a file in every other way",
        "p = T['victim']\n"
        "for mode in ('a', 'r+', 'x', 'rb+', 'wb'): got(mode, open, p, mode)\n"
        "got('truncate', os.truncate, p, 0); got('unlink', os.unlink, p); got('rename', os.rename, p, p + '2')\n"
        "got('chmod', os.chmod, p, 0); got('chown', os.chown, p, os.getuid(), -1); got('utime', os.utime, p)\n"
        "got('xattr', os.setxattr, p, 'user.x', b'x'); got('rmdir', os.rmdir, T['folder']); got('replace', os.replace, p, p)\n"
        "got('append', lambda: os.open(p, os.O_WRONLY | os.O_APPEND)); got('trunc', lambda: os.open(p, os.O_TRUNC))\n"
        "got('map', lambda: __import__('mmap').mmap(os.open(p, os.O_RDWR), 0))",
    ),
    Hostile(
        "has modules write for it",
        "import importlib\n"
        "def use(name, work): got(name, lambda: work(importlib.import_module(name)))\n"
        "p = f\"{T['folder']}/{T['litter']}\"\n"
        "use('tempfile', lambda m: m.mkstemp()); use('sqlite3', lambda m: m.connect(p).execute('create table t(x)'))\n"
        "use('logging', lambda m: m.FileHandler(p)); use('shelve', lambda m: m.open(p)); use('zipfile', lambda m: m.ZipFile(p, 'w'))\n"
        "use('dbm.dumb', lambda m: m.open(p, 'c')); use('gzip', lambda m: m.open(p, 'w')); use('bz2', lambda m: m.open(p, 'w'))\n"
        "use('multiprocessing', lambda m: m.Lock()); use('multiprocessing.shared_memory', lambda m: m.SharedMemory(create=True, size=9))\n"
        "use('tarfile', lambda m: m.open(p, 'w')); use('venv', lambda m: m.create(p)); use('cProfile', lambda m: m.run('1', p))\n"
        "use('faulthandler', lambda m: m.enable(open(p, 'w'))); use('tracemalloc', lambda m: m.start() or m.take_snapshot().dump(p))",
        limits=Limits(cpu_seconds=2, wall_seconds=20),
    ),
    Hostile(
        "poisons the modules of programs to come",
        "import json, random, sys, builtins\n"
        "builtins.print = json.dumps = random.random = sys.stdout.write = lambda *a: 'poison'\n"
        "for name in ('json/__init__.py', '__pycache__/json.pyc', 'sitecustomize.py', 'lib-dynload/x.so'):\n"
        "    for folder in sys.path: got(name, open, f'{folder}/{name}', 'a')\n"
        "got('pyc', lambda: __import__('py_compile').compile(json.__file__, '/tmp/x.pyc', doraise=True))\n"
        "sys.modules['math'] = None; os.environ['PYTHONSTARTUP'] = '/tmp/x'; os.stat_result = None",
    ),
    Hostile(
        "spoils its own input for others",
        "for n in (0, 5, 6):\n"
        "    got('write', os.write, n, b'x'); got('pwrite', os.pwrite, n, b'x', 0); got('truncate', os.ftruncate, n, 9)\n"
        "    got('map', lambda: __import__('mmap').mmap(n, 5)); got('allocate', os.posix_fallocate, n, 0, 1 << 30)\n"
        "    got('seals', syscall, 72, n, 1033, 0); got('chmod', os.fchmod, n, 0o777); got('exec', os.execve, n, ['x'], {})\n"
        "    got('mprotect', lambda: syscall(9, 0, 4096, 7, 1, n, 0))",
        stdin="input",
    ),
    Hostile(
        "climbs out of its root",
        "for step in (lambda: os.chdir('..'), lambda: os.chroot('.'), lambda: os.fchdir(0), lambda: os.chroot('/proc')):\n"
        "    got('step', step)\n"
        "got('mkdir', os.mkdir, 'x'); got('cwd', lambda: 1 / (os.getcwd() != '/'))\n"
        "got('open', lambda: os.open('/..' * 30 + '/etc/hostname', os.O_RDONLY))\n"
        "got('pivot', syscall, 155, b'.', b'.')",
    ),
]
