"""The modules that a zygote imports, so that programs need not."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Their libraries lie outside the standard library, where programs cannot read: now or never.
HOST = """
    ctypes _ctypes _hashlib zlib _bz2 _lzma _sqlite3 _uuid _decimal pyexpat _elementtree math random socket
"""

# What most programs use; about 15 MB.
CORE = """
    abc array ast atexit base64 binascii bisect calendar cmath codecs collections collections.abc contextlib
    contextvars copy copyreg csv dataclasses datetime decimal difflib encodings.ascii encodings.idna
    encodings.latin_1 encodings.utf_8 encodings.utf_16 encodings.utf_32 enum errno fnmatch fractions functools gc
    getopt graphlib hashlib heapq hmac html importlib importlib.util inspect io itertools json keyword linecache
    locale math numbers operator os os.path pathlib pickle platform pprint queue random re reprlib resource secrets
    select shlex signal statistics string stringprep struct sys textwrap threading time timeit token tokenize
    traceback types typing unicodedata uuid warnings weakref zlib
"""

# What else a program may ask for where no file can be opened later.
WIDE = """
    _strptime argparse asyncio bdb bz2 cProfile cmd code codeop colorsys compileall concurrent.futures
    configparser copy ctypes datetime dis doctest email email.message email.mime.text encodings.base64_codec
    encodings.cp1252 encodings.hex_codec encodings.iso8859_1 encodings.punycode encodings.raw_unicode_escape
    encodings.rot_13 encodings.unicode_escape encodings.utf_8_sig filecmp fileinput getpass glob gzip
    html.entities html.parser http http.client importlib.resources io ipaddress json.tool logging
    logging.handlers lzma marshal mimetypes modulefinder multiprocessing multiprocessing.dummy
    multiprocessing.pool multiprocessing.queues multiprocessing.synchronize netrc ntpath opcode optparse pdb
    pkgutil plistlib posixpath profile pstats py_compile pyclbr quopri runpy sched selectors shelve shutil
    socketserver sqlite3 ssl stat subprocess symtable sysconfig tarfile tempfile tomllib trace tracemalloc
    unittest unittest.mock urllib.error urllib.parse urllib.request wave wsgiref xml.dom.minidom
    xml.etree.ElementTree xml.sax xml.sax.expatreader xmlrpc.client zipfile zipimport zoneinfo
"""


def preload(names: Iterable[str]) -> list[str]:
    """Import what is there, and give the names of what is not."""
    missing = []
    for name in names:
        try:
            import_module(name)
        except ImportError:
            missing.append(name)
    return missing


def missing_modules() -> list[str]:
    """Public modules of the standard library that have not been imported."""
    return sorted(name for name in sys.stdlib_module_names if name[0] != "_" and name not in sys.modules)
