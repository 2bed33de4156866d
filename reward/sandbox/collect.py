"""What comes back from one run. Pipes are read up to a cap each: whatever a program prints, our memory is bounded."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reward.sandbox.types import Limits

OUTPUTS = ("stdout", "stderr", "result", "ready")
_READY_BYTES = 512
_NOEXEC_SEAL = 0x8


def sealed_file(data: bytes) -> int:
    """A descriptor of an anonymous file that holds these bytes for ever."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        number = os.memfd_create("program", flags | _NOEXEC_SEAL)
    except OSError:  # before Linux 6.3
        number = os.memfd_create("program", flags)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]
    os.lseek(number, 0, os.SEEK_SET)
    fcntl.fcntl(number, fcntl.F_ADD_SEALS, 0xF)  # SEAL, SHRINK, GROW, WRITE
    return number


class Collector:
    """One pipe for each of `OUTPUTS`; close it in any case.

    Attributes:
        writers: the ends to hand over, in the order of `OUTPUTS`.
        readers: ours, each with its name.
        over: names of outputs that were cut at their caps.
    """

    def __init__(self, limits: Limits) -> None:
        self._caps = dict(
            zip(
                OUTPUTS,
                (limits.max_stdout_bytes, limits.max_stderr_bytes, limits.max_result_bytes, _READY_BYTES),
                strict=True,
            )
        )
        self._parts = {name: bytearray() for name in OUTPUTS}
        self.over: set[str] = set()
        self.writers: list[int] = []
        self.readers: dict[int, str] = {}
        try:
            for name in OUTPUTS:
                reader, writer = os.pipe2(os.O_CLOEXEC)
                self.readers[reader] = name
                self.writers.append(writer)
                os.set_blocking(reader, False)
        except BaseException:
            self.close()
            raise

    def drain(self, reader: int) -> bool:
        """Read what is there. False if nothing more will be read: at the end, or over the cap."""
        name = self.readers[reader]
        part, cap = self._parts[name], self._caps[name]
        while name not in self.over:
            try:
                data = os.read(reader, min(65536, cap + 1 - len(part)))
            except BlockingIOError:
                return True
            if not data:
                return False
            part += data
            if len(part) > cap:
                del part[cap:]
                self.over.add(name)
        return False

    def drain_all(self) -> None:
        """Read what is left after the program's end."""
        for reader in self.readers:
            self.drain(reader)

    def bytes_of(self, name: str) -> bytes:
        """What was read."""
        return bytes(self._parts[name])

    def close_writers(self) -> None:
        """After they were handed over."""
        while self.writers:
            os.close(self.writers.pop())

    def close(self) -> None:
        """Close every pipe."""
        self.close_writers()
        while self.readers:
            os.close(self.readers.popitem()[0])


@dataclass(frozen=True)
class Outcome:
    """What came back from one run, before it is judged.

    Attributes:
        ready: the first byte: `R` where the program got to run, else why it did not.
        over: which outputs were cut.
        reason: why the child was killed: `cpu`, `wall`, `stop` or empty.
        status: as from wait(2).
    """

    ready: bytes
    stdout: bytes
    stderr: bytes
    result: bytes
    over: frozenset[str]
    reason: str
    status: int
    cpu: float
    wall: float

    @classmethod
    def of(cls, collector: Collector, reason: str, status: int, cpu: float, wall: float) -> Outcome:
        """With the outputs that were collected."""
        outputs = {name: collector.bytes_of(name) for name in OUTPUTS}
        return cls(**outputs, over=frozenset(collector.over), reason=reason, status=status, cpu=cpu, wall=wall)
