"""What a run does, and which status it ends with."""

from __future__ import annotations

import pytest

from reward.sandbox import ExecutionResult, Limits, Run, Sandbox, Status
from reward.sandbox.values import decode


def test_a_program_prints(sandbox: Sandbox) -> None:
    result = sandbox.run("print(6*7)")
    assert (result.status, result.stdout, result.stderr, result.exit_code, result.result) == (
        Status.OK,
        "42\n",
        "",
        0,
        "",
    )
    assert 0 < result.cpu_seconds < 1
    assert result.wall_seconds > 0


def test_a_program_reads_its_input(sandbox: Sandbox) -> None:
    source = "import sys\nfirst = input()\nprint(first, sum(map(int, sys.stdin.read().split())))"
    assert sandbox.run(source, "añ\n1 2\n3\n").stdout == "añ 6\n"
    assert sandbox.run("print(repr(open(0).read()))", "a\r\nb").stdout == "'a\\nb'\n"
    assert sandbox.run("input()").stderr.endswith("EOFError: EOF when reading a line\n")


@pytest.mark.parametrize(
    ("source", "status", "code", "said"),
    [
        ("pass", Status.OK, 0, ""),
        ("", Status.OK, 0, ""),
        ("raise SystemExit", Status.OK, 0, ""),
        ("raise SystemExit(0)", Status.OK, 0, ""),
        ("import os; os._exit(0)", Status.OK, 0, ""),
        ("raise SystemExit(3)", Status.ERROR, 3, ""),
        ("raise SystemExit('so long')", Status.ERROR, 1, "so long\n"),
        ("import os; os._exit(7)", Status.ERROR, 7, ""),
        ("class C(int):\n  __and__ = lambda *a: 'x'\nraise SystemExit(C(4))", Status.ERROR, 4, ""),
        (
            "class C:\n  __class__ = int\n  __str__ = lambda s: 'no int'\nraise SystemExit(C())",
            Status.ERROR,
            1,
            "no int\n",
        ),
        ("raise KeyboardInterrupt", Status.ERROR, 1, "KeyboardInterrupt\n"),
        ("1 +", Status.ERROR, 1, "SyntaxError: invalid syntax\n"),
        ("\0", Status.ERROR, 1, "null bytes\n"),
        ("(" * 300, Status.ERROR, 1, "SyntaxError: too many nested parentheses\n"),
        ("def f(): f()\nf()", Status.ERROR, 1, "RecursionError: maximum recursion depth exceeded\n"),
        ("def f(): g()\ndef g(): f()\nf()", Status.ERROR, 1, "RecursionError: maximum recursion depth exceeded\n"),
        ("import os; os.abort()", Status.KILLED, -6, ""),
        ("import os; os.kill(os.getpid(), 9)", Status.KILLED, -9, ""),
        ("import ctypes; ctypes.string_at(0)", Status.KILLED, -11, ""),
        ("x = [0] * 10**10", Status.MEMORY, 1, "MemoryError\n"),
        ("x = []\nwhile True: x.append('x' * 10**6)", Status.MEMORY, 1, "MemoryError\n"),
    ],
)
def test_each_end_has_its_status(sandbox: Sandbox, source: str, status: Status, code: int, said: str) -> None:
    result = sandbox.run(source)
    assert (result.status, result.exit_code) == (status, code)
    assert result.stderr.endswith(said)


@pytest.mark.parametrize(
    ("source", "limits", "status"),
    [
        ("while True: pass", Limits(cpu_seconds=0.1), Status.TIMEOUT),
        ("import time; time.sleep(60)", Limits(wall_seconds=0.2), Status.TIMEOUT),
        ("import signal, os; os.kill(os.getpid(), signal.SIGSTOP)", Limits(wall_seconds=0.2), Status.TIMEOUT),
        ("import re; re.match('(a*)*b', 'a' * 40)", Limits(cpu_seconds=0.1), Status.TIMEOUT),
        ("import atexit\n@atexit.register\ndef f():\n while 1: pass", Limits(cpu_seconds=0.1), Status.TIMEOUT),
        ("print('x' * 10)", Limits(max_stdout_bytes=10), Status.OUTPUT_LIMIT),
        ("print('x' * 10, end='')", Limits(max_stdout_bytes=10), Status.OK),
        ("while True: print('x' * 10**6)", Limits(), Status.OUTPUT_LIMIT),
        ("import sys\nwhile True: print('x' * 10**6, file=sys.stderr)", Limits(), Status.OUTPUT_LIMIT),
        ("import os\nwhile True: os.write(3, b'x')", Limits(), Status.OUTPUT_LIMIT),
        ("print(1)", Limits(max_source_bytes=8), Status.OK),
        ("print(12)", Limits(max_source_bytes=8), Status.INVALID_SOURCE),
        ("x = 'é'", Limits(max_source_bytes=7), Status.INVALID_SOURCE),
        ("x = '\ud800'", Limits(), Status.INVALID_SOURCE),
        ("x = bytes(80 << 20)", Limits(memory_mb=256), Status.OK),
        ("x = bytes(80 << 20)", Limits(memory_mb=96), Status.MEMORY),
    ],
)
def test_each_limit_has_its_status(sandbox: Sandbox, source: str, limits: Limits, status: Status) -> None:
    assert sandbox.run(source, limits=limits).status is status


def test_cut_output_ends_at_the_cap(sandbox: Sandbox) -> None:
    result = sandbox.run("while True: print('x' * 999)", limits=Limits(max_stdout_bytes=1500))
    assert result.stdout == "x" * 999 + "\n" + "x" * 500
    assert result.exit_code is None


def test_a_time_out_keeps_to_the_fraction_of_a_second(sandbox: Sandbox) -> None:
    result = sandbox.run("while True: pass", limits=Limits(cpu_seconds=0.25))
    assert 0.25 <= result.cpu_seconds < 0.4
    assert result.exit_code is None


def test_threads_work_and_their_number_is_limited(sandbox: Sandbox) -> None:
    if "threads: allowed" not in sandbox.describe():
        pytest.skip("threads are off on this machine")
    deep = (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
        "def f(n): return 1 + f(n - 1) if n else 0\n"
        "t = threading.Thread(target=lambda: print(f(50000)))\nt.start()\nt.join()"
    )
    assert sandbox.run(deep).stdout == "50000\n"
    start = "threading.Thread(target=time.sleep, args=(1,)).start()"
    bomb = f"import threading, time\nfor i in range(99):\n print(i)\n {start}"
    result = sandbox.run(bomb, limits=Limits(max_threads=5))
    assert result.stdout.split() == ["0", "1", "2", "3", "4"]
    assert "can't start new thread" in result.stderr


def test_an_interpreter_ends_as_it_should(sandbox: Sandbox) -> None:
    source = (
        "import atexit, sys, threading, time\n"
        "class A:\n  def __del__(self): print('finalizer')\n"
        "a = A()\na.a = a\n"
        "atexit.register(print, 'atexit')\n"
        "def late():\n  time.sleep(0.01)\n  print('thread')\n"
        "sys.stdout.write('main\\n')\n"
        "threading.Thread(target=late).start()\n"
    )
    assert sandbox.run(source).stdout == "main\nthread\natexit\nfinalizer\n"


def test_what_is_printed_before_stdout_is_replaced_is_not_lost(sandbox: Sandbox) -> None:
    assert sandbox.run("import io, sys\nprint(1)\nsys.stdout = io.StringIO()\nprint(2)").stdout == "1\n"


def test_main_is_a_real_module(sandbox: Sandbox) -> None:
    source = (
        "from __future__ import annotations\nimport dataclasses, pickle, typing\n"
        "@dataclasses.dataclass\nclass P:\n  x: int = 1\n"
        "if __name__ == '__main__': print(pickle.loads(pickle.dumps(P(2))), typing.get_type_hints(P))"
    )
    assert sandbox.run(source).stdout == "P(x=2) {'x': <class 'int'>}\n"


def test_output_that_is_no_utf8_looks_like_nothing_else(sandbox: Sandbox) -> None:
    result = sandbox.run("import sys; sys.stdout.buffer.write(b'\\xff\\\\xff')")
    assert (result.status, result.stdout) == (Status.OK, "\udcff\\xff")


def test_error_texts_name_no_path_of_the_machine(sandbox: Sandbox) -> None:
    for source in (
        "import json; json.loads('{')",
        "import unittest; unittest.main(argv=1)",
        "import decimal as d; d.x",
    ):
        stderr = sandbox.run(source).stderr
        assert 'File "<program>", line 1, in <module>' in stderr
        assert not any(part in stderr for part in ("/usr", "/home", "/root", "reward", "<sandbox>", "lib/python"))


@pytest.mark.parametrize(
    ("source", "call", "value"),
    [
        ("def f(x): return x + 1", "f(41)", 42),
        ("def f(): return {1: [True, None], 'a': (1.5, {2}, b'x')}", " f() ", {1: [True, None], "a": (1.5, {2}, b"x")}),
        pytest.param("def f(): return 7 ** 9999", "f()", 7**9999, id="big"),
        ("type = len = sorted = str = None", "{3, 1, 2}", {1, 2, 3}),
    ],
)
def test_a_call_gives_a_value(sandbox: Sandbox, source: str, call: str, value: object) -> None:
    result = sandbox.run(source, call=call)
    assert (result.status, decode(result.result), result.stdout) == (Status.OK, value, "")


def test_a_value_and_stdout_keep_apart(sandbox: Sandbox) -> None:
    result = sandbox.run("print('1')\ndef f():\n  print('2')\n  return 3", call="f()")
    assert (result.stdout, decode(result.result)) == ("1\n2\n", 3)


@pytest.mark.parametrize(
    ("source", "call", "status"),
    [
        ("class Any:\n def __eq__(s, o): return True", "Any()", Status.ERROR),
        ("class I(int): pass", "I(3)", Status.ERROR),
        ("class L(list): pass", "[L()]", Status.ERROR),
        ("x = []\nx.append(x)", "x", Status.ERROR),
        ("", "lambda: 1", Status.ERROR),
        ("", "missing()", Status.ERROR),
        ("", "1 +", Status.ERROR),
        ("", "x = 1", Status.ERROR),
        ("import sys; sys.exit()", "1", Status.OK),
        ("import sys; sys.exit(2)", "1", Status.ERROR),
        ("1 / 0", "1", Status.ERROR),
        ("", "'x' * 70000", Status.OUTPUT_LIMIT),
    ],
)
def test_what_is_no_plain_value_has_no_result(sandbox: Sandbox, source: str, call: str, status: Status) -> None:
    result = sandbox.run(source, call=call)
    assert result.status is status
    if status is not Status.OUTPUT_LIMIT:
        assert result.result == ""


def test_junk_in_the_result_channel_does_not_decode(sandbox: Sandbox) -> None:
    for junk in ("b'junk'", "b'true'", "b'\\xff'", "b'null null'"):
        result = sandbox.run(f"import os; os.write(3, {junk})", call="1")
        with pytest.raises(ValueError, match=r"encoded value|Extra data|Expecting"):
            decode(result.result)


def test_what_the_data_set_brings_must_fit() -> None:
    unstarted = Sandbox()
    with pytest.raises(ValueError, match="stdin has 6 bytes; at most 5 are allowed"):
        unstarted.run("", "x" * 6, limits=Limits(max_stdin_bytes=5))
    with pytest.raises(ValueError, match="call is not Unicode text"):
        unstarted.run("", call="'\ud800'")


def test_many_runs_come_back_in_order(sandbox: Sandbox) -> None:
    runs = [Run("import time\nn = int(input())\ntime.sleep(0.02 * (n % 2))\nprint(n)", str(n)) for n in range(12)]
    assert [result.stdout for result in sandbox.run_many(runs)] == [f"{n}\n" for n in range(12)]
    assert sandbox.run_many([]) == []
    own = sandbox.run_many([Run("x = 3", call="x"), Run("print(1)", limits=Limits(max_stdout_bytes=1))])
    assert [(result.status, result.result) for result in own] == [(Status.OK, '["i","3"]'), (Status.OUTPUT_LIMIT, "")]


def test_results_can_be_compared() -> None:
    assert ExecutionResult.not_run(Status.OK, "") == ExecutionResult.not_run(Status.OK, "")
