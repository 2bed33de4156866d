"""Runs every hostile program in one tier and looks at it from outside: `attack.py TIER FOLDER SECRET`. Prints JSON.

This process is the supervisor that is attacked: there is a secret in its arguments, environment, memory and in a file.
With tier `none` it runs those programs that are harmless enough without any sandbox: each must be found out.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from reward.sandbox import ExecutionResult, Sandbox, Settings, Status
from reward.sandbox.filter import rules
from reward.sandbox.syscalls import ARCHITECTURES
from reward.sandbox.values import decode
from tests.reward.sandbox.hostile.corpus import CORPUS

if TYPE_CHECKING:
    from tests.reward.sandbox.hostile.case import Hostile

MOST_MEMORY = 64 << 20
MOST_CPU = 0.3  # of the supervisor, for one program
KEPT = [sys.argv[3]] * 99


@dataclass
class Process:
    """What /proc says."""

    pid: int
    uid: int
    parent: int
    state: str


def processes() -> list[Process]:
    """All but the kernel's own."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/status").read_text()
            except OSError:
                continue
            said = dict(line.split(":", 1) for line in text.splitlines())
            if "VmSize" in said or said["State"].split()[0] == "Z":
                state, uid, parent = said["State"].split()[0], said["Uid"].split()[0], said["PPid"]
                found.append(Process(int(name), int(uid), int(parent), state))
    return found


class Confined:
    """A sandbox of one slot, and what there is to know of it from outside."""

    def __init__(self, tier: str) -> None:
        self.sandbox = Sandbox(settings=Settings(slots=1), cache_size=0, _landlock=tier == "full")
        self.sandbox.start()
        assert self.sandbox.tier == tier, self.sandbox.describe()
        self.uids: set[int] = set()

    @property
    def zygote(self) -> int:
        (slot,) = self.sandbox._backend._all  # type: ignore[union-attr]
        if not slot.pid:
            self.sandbox.run("")
        pid: int = slot.pid
        self.uids.add(slot.hello["uid"] if slot.hello["uid"] is not None else os.getuid())
        return pid

    def run(self, hostile: Hostile, source: str) -> ExecutionResult:
        return self.sandbox.run(source, hostile.stdin, call=hostile.call, limits=hostile.limits)

    def clean(self) -> bool:
        """Whether the next program gets the right answer."""
        run = self.sandbox.run("print(sum(map(int, input().split())))", "40 2", call="[40 + 2]")
        return (run.status, run.stdout, run.stderr, run.result) == ("ok", "42\n", "", '["l",[["i","2a"]]]')


class Unconfined(Confined):
    """The control: a plain process. Only for programs that are marked as harmless."""

    def __init__(self) -> None:
        self.uids = {os.getuid()}

    @property
    def zygote(self) -> int:
        return os.getpid()

    def run(self, hostile: Hostile, source: str) -> ExecutionResult:
        assert hostile.control
        # No pipe: a child that stays would keep it open.
        with tempfile.TemporaryFile() as file:
            code = subprocess.run([sys.executable, "-c", source], stdout=file, stderr=file, check=False).returncode
            file.seek(0)
            said = file.read().decode()
        return ExecutionResult(Status.ERROR if code else Status.OK, said, "", code, 0, 0)

    def clean(self) -> bool:
        return True


@dataclass
class Surroundings:
    """Everything that a program might touch, as it was before."""

    folder: Path
    tokens: list[str]
    confined: Confined
    listeners: dict[str, socket.socket] = field(default_factory=dict)
    litter: str = f"hostile-litter-{os.getpid()}"

    def set_up(self) -> dict[str, Any]:
        (self.folder / "secret").write_text(f"{self.tokens[1]}\n")
        self.listen("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self.listen("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self.listen("path", socket.AF_UNIX, socket.SOCK_STREAM, str(self.folder / "socket"))
        self.listen("abstract", socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.litter}")
        self.restore()
        self.places = [self.folder, *map(Path, (tempfile.gettempdir(), "/var/tmp", "/dev/shm", "/"))]
        self.start = self.state(processes())
        self.files = self.owned()
        self.memory = resident()
        arch = ARCHITECTURES["x86_64"]
        allowed = [arch.numbers[name] for name in rules(arch, files=True, threads=True)]
        return {
            "supervisor": os.getpid(),
            "secret": str(self.folder / "secret"),
            "victim": str(self.folder / "victim"),
            "folder": str(self.folder),
            "tmp": tempfile.gettempdir(),
            "litter": self.litter,
            "tcp": self.listeners["tcp"].getsockname()[1],
            "udp": self.listeners["udp"].getsockname()[1],
            "path": str(self.folder / "socket"),
            "abstract": self.litter,
            "allowed": allowed,
        }

    def listen(self, name: str, family: int, kind: int, address: Any) -> None:
        listener = self.listeners[name] = socket.socket(family, kind)
        listener.bind(address)
        listener.setblocking(False)
        if kind == socket.SOCK_STREAM:
            listener.listen(8)

    def close(self) -> None:
        for listener in self.listeners.values():
            listener.close()

    def restore(self) -> None:
        """Undo what a control did."""
        (self.folder / "victim").write_text("whole")

    def owned(self) -> set[str]:
        """Files that programs may have left."""
        found = {str(path) for path in self.folder.iterdir()}
        for place in self.places:
            for entry in os.scandir(place):
                try:
                    if self.litter in entry.name or entry.stat(follow_symlinks=False).st_uid in self.confined.uids:
                        found.add(entry.path)
                except OSError:
                    continue
        return found

    def state(self, around: list[Process]) -> dict[str, int]:
        """Of this process: what must not change."""
        ours = [process.state for process in around if process.parent == os.getpid()]
        descriptors, threads = (len(list(Path(f"/proc/self/{name}").iterdir())) for name in ("fd", "task"))
        return {"descriptors": descriptors, "threads": threads, "zombies": ours.count("Z"), "children": len(ours)}

    def survivors(self, around: list[Process]) -> list[int]:
        """Processes of the programs' users."""
        known = {os.getpid(), self.confined.zygote}
        return [p.pid for p in around if p.uid in self.confined.uids and p.pid not in known and p.state != "Z"]

    def problems(self) -> list[str]:
        """What has changed."""
        found = [f"{name} was reached" for name, listener in self.listeners.items() if reached(listener)]
        around = processes()
        left = self.survivors(around)
        if left:
            found.append(f"processes are left: {left}")
        if (self.folder / "victim").read_text() != "whole":
            found.append("the victim was changed")
        new = self.owned() - self.files
        if new:
            found.append(f"new files: {sorted(new)}")
        if self.state(around) != self.start:
            found.append(f"the supervisor had {self.start} and has {self.state(around)}")
        if resident() - self.memory > MOST_MEMORY:
            found.append(f"the supervisor grew by {resident() - self.memory >> 20} MB")
        return found

    def clean_up(self) -> None:
        """After a control: it has been seen."""
        for pid in self.survivors(processes()):
            os.kill(pid, 9)
        for path in self.owned() - self.files:
            Path(path).unlink()
        self.restore()


def reached(listener: socket.socket) -> bool:
    try:
        if listener.type == socket.SOCK_STREAM:
            listener.accept()[0].close()
        else:
            listener.recv(99)
    except BlockingIOError:
        return False
    return True


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def attack(hostile: Hostile, surroundings: Surroundings, targets: dict[str, Any], residue: str) -> list[str]:
    """Everything that was not contained."""
    confined = surroundings.confined
    if hostile.before:
        confined.sandbox.run(hostile.before.format(residue=residue), residue)
    source = hostile.program({**targets, "zygote": confined.zygote})
    started, cpu = time.monotonic(), time.process_time()
    result = confined.run(hostile, source)
    found = decodes(hostile, result)
    took, cpu = time.monotonic() - started, time.process_time() - cpu
    said = f"{result.stdout}\n{result.stderr}\n{result.result}"
    if result.status not in hostile.status:
        found.append(f"status {result.status}: {result.stderr[-300:]!r}")
    # Tracebacks may quote the line that would have said it.
    found += [line[:200] for line in said.splitlines() if line.startswith("GOT ")][:9]
    found += [f"a secret came out: {token}" for token in (*surroundings.tokens, residue) if token in said]
    if "ModuleNotFoundError" in result.stderr:
        found.append(f"the attack did not begin: {result.stderr[-60:]}")
    if hostile.code is not None and result.exit_code != hostile.code:
        found.append(f"exit code {result.exit_code}")
    if took > hostile.limits.wall_seconds + 5:
        found.append(f"took {took:.1f} s")
    if cpu > MOST_CPU:
        found.append(f"took {cpu:.2f} s of the supervisor's CPU time")
    found += surroundings.problems()
    if not confined.clean():
        found.append("the next program did not get its answer")
    return found


def decodes(hostile: Hostile, result: ExecutionResult) -> list[str]:
    """Whether the value is read, or refused, as it should be."""
    if not hostile.call or result.status != Status.OK:
        return []
    try:
        decode(result.result)
        good = True
    except ValueError:
        good = False
    return [f"the result: {result.result[:99]!r}"] if hostile.value not in (None, good) else []


def main() -> None:
    tier, folder, secret = sys.argv[1:]
    os.chdir(folder)
    confined = Unconfined() if tier == "none" else Confined(tier)
    tokens = [secret, f"canary-{os.urandom(12).hex()}"]
    assert os.environ["HOSTILE_SECRET"] == KEPT[0] == secret
    assert confined.zygote
    surroundings = Surroundings(Path(folder), tokens, confined)
    targets = surroundings.set_up()
    report = {}
    for hostile in CORPUS:
        if tier == "none" and not hostile.control:
            continue
        started = time.monotonic()
        found = attack(hostile, surroundings, targets, f"canary-{os.urandom(12).hex()}")
        # On a busy machine a short limit can end a program early. Nothing else gets a second chance.
        if found and all(problem.startswith(("status timeout", "took ")) for problem in found):
            found = attack(hostile, surroundings, targets, f"canary-{os.urandom(12).hex()}")
        report[hostile.name] = {"problems": found, "seconds": time.monotonic() - started}
        if tier == "none":
            surroundings.clean_up()
    surroundings.close()
    sys.stdout.write(json.dumps(report))


main()
