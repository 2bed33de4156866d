"""Times the sandbox beside a plain subprocess: `python tests/bench/bench_sandbox.py --runs 3000`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reward.sandbox import Run, Sandbox, Settings, Status

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = """
import math
a, b = map(int, input().split())
while b:
    a, b = b, a % b
print(a)
"""
STDIN = "1071 462\n"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def percentiles(run: Callable[[], object], count: int) -> str:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    times.sort()
    return f"p50 {times[count // 2]:6.2f} ms   p95 {times[count * 95 // 100]:6.2f} ms"


def state() -> str:
    """Of this process: open descriptors, and children with zombies among them."""
    children, zombies = 0, 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                children += 1
                zombies += fields[0] == "Z"
    return f"{len(list(Path('/proc/self/fd').iterdir())) - 1} fds, {children} children, {zombies} zombies"


def cpu_seconds() -> float:
    """Of this process and, since they were started, its children and theirs, as far as these have ended."""
    total = time.process_time()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def plain() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM], input=STDIN, capture_output=True, text=True, check=True
    )
    assert done.stdout == "21\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--single", type=int, default=300)
    parser.add_argument("--slots", type=int, default=2)
    arguments = parser.parse_args()
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, slots {arguments.slots}")
    say(f"before          {state()}")
    started = time.perf_counter()
    with Sandbox(settings=Settings(slots=arguments.slots), cache_size=0) as sandbox:
        say(f"start           {1000 * (time.perf_counter() - started):.0f} ms, tier {sandbox.tier}")
        say(f"sandbox single  {percentiles(lambda: sandbox.run(PROGRAM, STDIN), arguments.single)}")
        sandbox.run_many([Run(PROGRAM, STDIN)] * 100)
        say(f"running         {state()}")
        started, spent = time.perf_counter(), cpu_seconds()
        results = sandbox.run_many([Run(PROGRAM, STDIN)] * arguments.runs)
        took, spent = time.perf_counter() - started, cpu_seconds() - spent
        assert {(result.status, result.stdout) for result in results} == {(Status.OK, "21\n")}
        say(f"sandbox many    {len(results) / took:.0f} runs/s ({len(results)} in {took:.1f} s)")
        each = 1000 * sum(result.cpu_seconds for result in results) / len(results)
        say(f"CPU each        {1000 * spent / len(results):.2f} ms, of which {each:.2f} ms in the program's process")
        say(f"running         {state()}")
    say(f"after           {state()}")
    say(f"plain single    {percentiles(plain, arguments.single // 3)}")
    few = max(arguments.runs // 10, 20)
    started = time.perf_counter()
    with ThreadPoolExecutor(arguments.slots) as pool:
        list(pool.map(lambda _: plain(), range(few)))
    say(f"plain many      {few / (time.perf_counter() - started):.0f} runs/s ({few} runs)")


if __name__ == "__main__":
    main()
