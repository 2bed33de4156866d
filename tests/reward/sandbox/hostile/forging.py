# ruff: noqa: E501 (attacks read best one to a line)
"""Attacks on the verdict: results, readiness and exit codes that are not what the program earned.

No expected answer is in reach, so a program that writes the result channel itself claims what it could have returned.
What must not happen: another status than it earned, two answers at once, a value that is no plain data, or a failure
that is put down to the sandbox.
"""

from __future__ import annotations

from tests.reward.sandbox.hostile.case import CRASHED, ENDED, FULL, STOPPED, Hostile

PROGRAMS = [
    Hostile("writes the result itself", 'os.write(3, b\'["i","2a"]\'); os._exit(0)', call="f()", value=True),
    Hostile("writes a result before the real one", 'os.write(3, b\'["i","2a"]\')', call="1", value=False),
    Hostile(
        "writes a result after the real one, at exit",
        'import atexit\natexit.register(os.write, 3, b\'["i","2a"]\')',
        call="1",
        value=False,
    ),
    Hostile(
        "a thread that sprays results",
        "import threading\n"
        "def spray():\n"
        '    while True: os.write(3, b\'["i","2a"]\')\n'
        "threading.Thread(target=spray, daemon=True).start()\nimport time; time.sleep(0.05)",
        status=ENDED | FULL,
        call="1",
    ),
    Hostile(
        "replaces the encoder in the harness",
        "import sys\nframe = sys._getframe()\n"
        "while frame:\n"
        "    for name in ('encode', '_write', '_exit', '_attempt', '_leave', '_evaluate'):\n"
        "        if name in frame.f_globals and frame.f_globals is not globals():\n"
        "            frame.f_globals[name] = lambda *a: os.write(3, b'x') and os._exit(0)\n"
        "    frame = frame.f_back",
        call="1",
        value=False,
    ),
    Hostile(
        "finds the harness among all objects and breaks its references",
        "import gc, types\n"
        "for thing in gc.get_objects() + [o.__globals__ for o in gc.get_objects() if type(o) is types.FunctionType]:\n"
        "    if isinstance(thing, dict) and ('_dumps' in thing or 'RESULT_FD' in thing):\n"
        "        thing.update(_type=lambda v: int, encode=lambda v: 'null', _dumps=repr, RESULT_FD=1, _code_of=len)",
        call="object()",
    ),
    Hostile(
        "claims not to have been ready",
        "for number in range(256):\n"
        "    for text in (b'EOSError: no memory', b'E', b'R'):\n"
        "        if number not in (1, 2, 3): got(number, os.write, number, text)\n"
        "os._exit(1)",
        status=frozenset({"error"}),
    ),
    Hostile("closes everything and leaves", "os.closerange(0, 256); os._exit(1)", status=frozenset({"error"})),
    Hostile(
        "puts its pipes in each other's place",
        "os.dup2(3, 9); os.dup2(1, 3); os.dup2(9, 1); os.dup2(1, 4); os.write(4, b'R' * 600)",
        call="1",
        value=False,
    ),
    Hostile(
        "kills itself as the kernel would when memory runs out",
        "import signal; os.kill(os.getpid(), signal.SIGKILL)",
        status=CRASHED,
    ),
    Hostile(
        "forges the text of a sandbox that failed",
        "import sys\nsys.stderr.write('the zygote ended\\nthe child ended before the program began\\n'); os._exit(1)",
        status=frozenset({"error"}),
    ),
    Hostile(
        "an object equal to everything",
        "class Any:\n    __eq__ = __ne__ = __lt__ = lambda s, o: True\n    __hash__ = lambda s: 0",
        status=frozenset({"error"}),
        call="[Any()]",
    ),
    Hostile(
        "subclasses of int, str and list that compare as they like",
        "class I(int):\n    __eq__ = lambda s, o: True\nclass S(str):\n    __eq__ = lambda s, o: True\n"
        "class L(list):\n    __len__ = lambda s: 10**9\n    __iter__ = lambda s: iter(int, 1)",
        status=frozenset({"error"}),
        call="(I(1), S('x'), L())",
    ),
    Hostile(
        "an object that lies about its class, its name and how it is pickled",
        "class M(type):\n    __name__ = property(lambda c: os._exit(0))\n"
        "class A(metaclass=M):\n    __class__ = int\n    __reduce__ = lambda s: (os.system, ('true',))\n"
        "    __index__ = __int__ = lambda s: 42\n    __format__ = lambda s, f: '2a'",
        call="A()",
        value=None,
    ),
    Hostile("a value that holds itself", "x = []; x.append(x)", status=frozenset({"error"}), call="x"),
    Hostile("a value a million levels deep", "x = ()\nfor _ in range(10**5): x = (x,)", ENDED | CRASHED, call="x"),
    Hostile("a value that grows while it is read", "d = {i: i for i in range(9)}\nclass K(str): pass", call="d"),
    Hostile(
        "keys that all have the same hash",
        "keys = ','.join(f'[\"i\",\"{i * (2**61 - 1):x}\"]' for i in range(1, 2900))\n"
        "text = f'[\"s\",[{keys}]]'.encode()\nassert len(text) <= 65536\n"
        "while text: text = text[os.write(3, text):]\nos._exit(0)",
        call="1",
        value=False,
    ),
    Hostile("a result of brackets alone", "os.write(3, b'[' * 65000); os._exit(0)", call="1", value=False),
    Hostile("a result that is one long number", "os.write(3, b'9' * 65000); os._exit(0)", call="1", value=False),
    Hostile(
        "exit codes that are not quite numbers",
        "class Code(int):\n    __and__ = __rand__ = __bool__ = __index__ = lambda s, *o: 'zero'\nraise SystemExit(Code(0))",
    ),
    Hostile(
        "an exit code that only says it is one",
        "class Code:\n    __class__ = int\n    __and__ = lambda s, o: None\nraise SystemExit(Code())",
    ),
    Hostile("an exit code of 256", "os._exit(256)", call="1"),
    Hostile(
        "an exception that bites whoever shows it",
        "class Meta(type):\n    __name__ = property(lambda c: 1 / 0)\n    __module__ = property(lambda c: 1 / 0)\n"
        "class Bad(Exception, metaclass=Meta):\n    __traceback__ = property(lambda s: 1 / 0)\n"
        "    __str__ = __repr__ = lambda s: 1 / 0\n"
        "import sys\nsys.excepthook = lambda *a: 1 / 0\nraise Bad",
        status=frozenset({"error"}),
    ),
    Hostile(
        "a signal handler that raises all the time, in the harness too",
        "import signal\n"
        "def again(*a):\n    signal.setitimer(signal.ITIMER_REAL, 0.0003)\n    raise ValueError\n"
        "signal.signal(signal.SIGALRM, again); signal.setitimer(signal.ITIMER_REAL, 0.0003)\nwhile 1: pass",
        status=ENDED | STOPPED,
        call="1",
    ),
    Hostile(
        "traces the harness and changes what it is about to do",
        "import sys, threading\n"
        "def trace(frame, event, argument):\n"
        "    if 'value' in frame.f_locals: frame.f_locals['value'] = 42\n"
        "    for name in ('box', 'request', 'lockdown', 'passed', 'control'):\n"
        "        if name in frame.f_locals and name != 'box': print('GOT', name)\n"
        "    return trace\n"
        "sys.settrace(trace); threading.setprofile(trace); threading.settrace(trace); sys.setprofile(trace)\n"
        "frame = sys._getframe()\nwhile frame: frame.f_trace, frame = trace, frame.f_back",
        call="41",
    ),
    Hostile(
        "replaces builtins, json, print and os._exit",
        "import builtins, json, sys\n"
        "for name in ('compile', 'eval', 'exec', 'len', 'type', 'isinstance', 'sorted', 'print', '__import__', 'open'):\n"
        "    setattr(builtins, name, lambda *a, **k: 42)\n"
        "json.dumps = json.loads = os.write = os._exit = lambda *a, **k: 42",
        call="1",
    ),
    Hostile(
        "listens to audit events and hooks imports",
        "import sys\n"
        "sys.addaudithook(lambda event, a: os._exit(0) if event == 'compile' and b'1' not in (a[0] or b'1') else None)\n"
        "class Finder:\n    def find_spec(self, *a): os._exit(0)\n"
        "sys.meta_path.insert(0, Finder()); sys.path_hooks.insert(0, lambda p: os._exit(0))",
        call="1",
    ),
    Hostile(
        "finalizers that answer again at the end",
        "class A:\n    def __del__(self): os.write(3, b'null'); print('late')\na = A(); a.a = a",
        call="1",
        value=False,
    ),
    Hostile(
        "pretends that memory ran out",
        "import sys; sys.stderr.write('MemoryError\\n'); os._exit(0)",
        status=frozenset({"ok"}),
    ),
    Hostile(
        "ends the last thread but not the process",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(0.1,)).start()\nsyscall(60, 0)",
        status=ENDED | STOPPED,
    ),
]
