# ruff: noqa: E501 (attacks read best one to a line)
"""Attacks on what a program must not know: secrets in files, in other processes, and in what earlier runs left."""

from __future__ import annotations

from reward.sandbox import Limits
from tests.reward.sandbox.hostile.case import Hostile

# Reads all of its own memory: asks the kernel where there is some, and searches it for whatever looks like a secret.
# The searched text is put together at run time, so that the program does not find itself.
_SCAN = """
import re, sys
needle = re.compile(b"can" + b"ary-[0-9a-f]{24,}")
def mapped(page):  # the kernel reads the signal mask from there, or says EFAULT
    return libc.syscall(14, ctypes.c_long(0), ctypes.c_void_p(page), None, ctypes.c_long(8)) == 0
old = ctypes.create_string_buffer(8); libc.syscall(14, ctypes.c_long(2), None, old, ctypes.c_long(8))
def scan(start, stop, step=4096):
    text = b""
    for page in range(start, stop, step):
        if mapped(page):
            text = text[-64:] + ctypes.string_at(page, step)
            for hit in needle.findall(text): print("GOT", hit)
        else:
            text = b""
seen = set()
import gc
for thing in [*gc.get_objects(), libc.strlen, sys, re]:
    address = ctypes.cast(libc.strlen, ctypes.c_void_p).value if thing is libc.strlen else id(thing)
    seen.add(address >> 20)
here = ctypes.addressof(old)
seen.add(here >> 20)
environ = ctypes.c_void_p.in_dll(libc, "environ").value
for block in range((environ >> 20) - 9, (environ >> 20) + 9): seen.add(block)
for block in sorted(seen): scan(block << 20, (block + 1) << 20)
libc.syscall(14, ctypes.c_long(2), old, None, ctypes.c_long(8))
"""

PROGRAMS = [
    Hostile("reads a file that all may read", "got('file', lambda: open(T['secret']).read())", control=True),
    Hostile(
        "opens the secret in every other way",
        "import codecs, fileinput, io, linecache, runpy, tokenize, importlib.machinery as m\n"
        "p = T['secret']\n"
        "got('os', lambda: os.read(os.open(p, os.O_RDONLY), 99)); got('fio', lambda: io.FileIO(p).read())\n"
        "got('path', lambda: os.open(p, os.O_PATH)); got('code', lambda: io.open_code(p).read())\n"
        "got('codecs', lambda: codecs.open(p).read()); got('input', lambda: list(fileinput.input(p)))\n"
        "got('tokenize', lambda: tokenize.open(p).read()); got('runpy', runpy.run_path, p)\n"
        "got('loader', m.SourceFileLoader('x', p).get_data, p); got('dlopen', ctypes.CDLL, p)\n"
        "got('lines', lambda: linecache.getlines(p)[0])\n"
        "got('rw', lambda: os.open(p, os.O_RDWR)); got('openat2', syscall, 437, -100, p.encode(), bytes(24), 24)\n"
        "got('open', syscall, 2, p.encode(), 0); got('creat', syscall, 85, p.encode(), 0)\n"
        "got('link', os.readlink, '/proc/self/exe'); got('access', syscall, 21, p.encode(), 4)\n"
        "got('truncate', os.truncate, p, 0); got('sql', lambda: __import__('sqlite3').connect(p).execute('pragma x'))",
    ),
    Hostile(
        "goes round by other names of the same file",
        "p = T['secret']\n"
        "for path in ('/proc/self/root' + p, '/proc/1/root' + p, '../' * 30 + p[1:], '/..' * 9 + p, '/.' + p,\n"
        "             '/proc/self/cwd/' + '../' * 9 + p[1:], f\"/proc/{T['supervisor']}/cwd/secret\",\n"
        "             f\"/proc/{T['supervisor']}/root{p}\", f\"/proc/{T['zygote']}/root{p}\", '/dev/fd/0/../..' + p):\n"
        "    got(path, lambda: open(path).read())",
    ),
    Hostile(
        "reads its supervisor's environment",
        "got('environ', lambda: open(f\"/proc/{T['supervisor']}/environ\", 'rb').read().split(b'SECRET=')[1][:40])",
        control=True,
    ),
    Hostile(
        "reads its supervisor's arguments",
        "got('argv', lambda: open(f\"/proc/{T['supervisor']}/cmdline\", 'rb').read())",
        control=True,
    ),
    Hostile(
        "reads what the kernel tells of every process around",
        "for pid in [T['supervisor'], T['zygote'], os.getppid(), 1, 'self', 'thread-self']:\n"
        "    for name in ('environ', 'cmdline', 'maps', 'mem', 'auxv', 'stat', 'status', 'fd', 'io', 'syscall'):\n"
        "        path = f'/proc/{pid}/{name}'\n"
        "        got(path, os.listdir if name == 'fd' else lambda p: open(p, 'rb').read(64), path)\n"
        "for path in ('/proc', '/sys', '/dev', '/proc/kallsyms', '/proc/kcore', '/dev/mem', '/dev/kmsg', '/dev/random'):\n"
        "    got(path, os.listdir, path); got(path, lambda: open(path, 'rb').read(1))",
    ),
    Hostile(
        "reads its supervisor's memory",
        "buffer = ctypes.create_string_buffer(64)\n"
        "here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 64)\n"
        "for pid in (T['supervisor'], T['zygote'], os.getppid()):\n"
        "    for call in (310, 311): got((call, pid), syscall, call, pid, here, 1, here, 1, 0)\n"
        "    for request in (0, 2, 16, 0x4206, 0x4207): got((request, pid), syscall, 101, request, pid, 0, 0)\n"
        "    got('pidfd', syscall, 434, pid, 0); got('getfd', syscall, 438, 5, 3, 0); got('kcmp', syscall, 312, pid, pid, 0)",
    ),
    Hostile("searches its whole memory", _SCAN, limits=Limits(cpu_seconds=3, wall_seconds=20)),
    Hostile(
        "searches its memory for the program before it",
        _SCAN,
        limits=Limits(cpu_seconds=3, wall_seconds=20),
        before="token = input()\nkept = [token * n for n in range(50)]\nprint(len(kept), '{residue}')",
    ),
    Hostile(
        "looks for secrets among all objects and frames",
        "import gc, sys\n"
        "def texts():\n"
        "    for thing in gc.get_objects():\n"
        "        yield repr(thing) if type(thing) in (list, tuple, set) and len(thing) < 99 else ''\n"
        "        if type(thing) is dict: yield from [v for v in list(thing.values()) if type(v) is str]\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        yield repr({k: v for k, v in frame.f_locals.items() if k not in ('T', 'texts')})[:9999]\n"
        "        frame = frame.f_back\n"
        "for text in texts():\n"
        "    if 'can' + 'ary-' in text and '[0-9' not in text: print('GOT', text)",
        limits=Limits(cpu_seconds=2, wall_seconds=20),
    ),
    Hostile(
        "looks for its owner's descriptors",
        "for number in range(4, 4096):\n"
        "    got(number, os.fstat, number); got(number, os.read, number, 1); got(number, syscall, 3, number)\n"
        "for number in (*range(256), 1 << 20, -100):\n"
        "    got(number, lambda: os.open(T['secret'], os.O_RDONLY, dir_fd=number))\n"
        "    got(number, os.fchdir, number)",
    ),
    Hostile(
        "looks into its own environment and arguments",
        "import sys\n"
        "extra = set(os.environ) - {'HOME', 'LC_ALL', 'PATH', 'TZ'}\n"
        "if extra or len(sys.argv) > 1 or len(sys.orig_argv) > 2: print('GOT', extra, sys.argv, sys.orig_argv)",
    ),
    Hostile(
        "reads installed packages",
        "import sys, glob\n"
        "for folder in (*sys.path, '/usr/lib/python3', '/usr/local/lib/python3.11'):\n"
        "    for name in ('site-packages', 'dist-packages'):\n"
        "        for found in glob.glob(f'{folder}/{name}/*') + glob.glob(f'{folder}/{name}/*/__init__.py'):\n"
        "            got(found, lambda: open(found, 'rb').read(9))\n"
        "        got('import', lambda: sys.path.append(f'{folder}/{name}') or __import__('pip'))",
        limits=Limits(cpu_seconds=2, wall_seconds=20),
    ),
    Hostile(
        "asks for files by handle",
        "handle = ctypes.create_string_buffer(b'\\x40\\0\\0\\0', 128)\n"
        "got('to', syscall, 303, -100, T['secret'].encode(), handle, handle, 0); got('by', syscall, 304, -100, handle, 0)",
    ),
    Hostile(
        "sees which processes there are",
        "for pid in (T['supervisor'], T['zygote'], os.getppid(), 1):\n"
        "    got('affinity', os.sched_getaffinity, pid); got('priority', os.getpriority, 0, pid)\n"
        "    got('session', os.getsid, pid); got('group', os.getpgid, pid); got('kill', os.kill, pid, 0)\n"
        "    got('scheduler', os.sched_getscheduler, pid); got('limits', syscall, 302, pid, 7, 0, 0)\n"
        "    got('clock', __import__('time').clock_gettime, (~pid << 3) | 2)",
    ),
    Hostile(
        "sees which files there are",
        "for path in (T['secret'], T['folder'], '/etc', '/proc', '/tmp', '/usr/bin/env'):\n"
        "    got(path, os.stat, path); got(path, os.lstat, path); got(path, os.listdir, path)\n"
        "    got(path, syscall, 262, -100, path.encode(), bytes(256), 0x1000)\n"
        "    got(path, syscall, 332, -100, path.encode(), 0, 0xfff, bytes(256))",
    ),
    Hostile(
        "has modules read the secret for it",
        "import importlib\n"
        "def use(name, work): got(name, lambda: work(importlib.import_module(name)))\n"
        "p = T['secret']\n"
        "use('configparser', lambda m: m.ConfigParser().read_file(open(p))); use('csv', lambda m: list(m.reader(open(p))))\n"
        "use('zipimport', lambda m: m.zipimporter(p)); use('netrc', lambda m: m.netrc(p))\n"
        "use('ssl', lambda m: m.create_default_context(cafile=p)); use('shutil', lambda m: m.copy(p, p + '.copy'))\n"
        "use('urllib.request', lambda m: m.urlopen('file://' + p).read()); use('dbm.dumb', lambda m: m.open(p))\n"
        "use('pathlib', lambda m: m.Path(p).read_text()); use('filecmp', lambda m: m.cmp(p, p))\n"
        "use('sqlite3', lambda m: m.connect(':memory:').execute(f\"attach '{p}' as x\").fetchall())\n"
        "use('xml.sax', lambda m: m.parse(p, m.ContentHandler())); use('logging.config', lambda m: m.fileConfig(p))",
        limits=Limits(cpu_seconds=2, wall_seconds=20),
    ),
]
