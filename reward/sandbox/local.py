"""The backend of choice: zygotes on this machine, under Landlock and seccomp."""

from __future__ import annotations

import os
import queue
import sys
import sysconfig
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reward.sandbox.judge import judge, maybe_killed_from_outside
from reward.sandbox.selftest import LAZY_IMPORT, selftest
from reward.sandbox.slot import Slot, ZygoteDied, ZygoteOptions, own_interpreter
from reward.sandbox.types import UNSAFE, ExecutionResult, Limits, SandboxUnavailable, Settings, Status, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable

_ADVICE = (
    "use a newer kernel or container runtime, allow seccomp(2) in its profile, set remote_url, "
    f'or accept the risk with allow_unsafe="{UNSAFE}"'
)


class LocalBackend:
    """Slots in a queue; a run takes one, uses it, and puts it back.

    Raises `SandboxUnavailable` where the machine offers less than `settings.min_tier`.
    """

    def __init__(self, settings: Settings, *, landlock: bool = True, seccomp: bool = True) -> None:
        if sys.platform != "linux":
            raise SandboxUnavailable(f"no sandbox on {sys.platform}: use Linux (a container will do) or set remote_url")
        self.slots = settings.slots or min(len(os.sched_getaffinity(0)), 8)
        self.tier = Tier.FULL
        self._settings = settings
        self._closed = False
        self._why: list[str] = []
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        self._options = ZygoteOptions(
            settings.python or own_interpreter(),
            landlock=landlock,
            seccomp=seccomp,
            extra_modules=settings.extra_modules,
            extra_path=tuple(sorted(paths)) if settings.extra_modules else (),
        )
        first = self._choose()
        self._hello = first.hello
        self.version = f"{self._hello['implementation']} {self._hello['python']} {' '.join(settings.extra_modules)}"
        self._fill([first])

    def _fill(self, slots: Iterable[Slot]) -> None:
        confinement = {key: self._hello[key] for key in ("abi", "seccomp", "userns", "chroot", "threads", "python")}
        self._all = [*slots]
        self._all += [self._slot() for _ in range(self.slots - len(self._all))]
        # Last in, first out: a slot that nobody needs never starts its zygote.
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()
        for slot in reversed(self._all):
            slot.expected = confinement
            self._free.put(slot)

    def _slot(self) -> Slot:
        return Slot(self._options, recycle_after=self._settings.recycle_after)

    def _choose(self) -> Slot:
        """The first slot of the best tier that holds; sets `tier`, and the options of all slots to come."""
        tiers = [Tier.FULL, Tier.CLOSED] if self._settings.min_tier == "closed" else [Tier.FULL]
        for tier in tiers:
            if (tier is Tier.FULL and not self._options.landlock) or not self._options.seccomp:
                self._why.append(f"{tier}: switched off")
                continue
            slot = self._try(tier)
            if slot:
                return slot
        if self._settings.allow_unsafe != UNSAFE:
            raise SandboxUnavailable(f"programs cannot be confined here ({'; '.join(self._why)}): {_ADVICE}")
        return self._start_unsafe()

    def _start_unsafe(self) -> Slot:
        self.tier = Tier.UNSAFE
        self._options = replace(self._options, seccomp=False, landlock=False)
        warnings.warn(
            f"programs run UNCONFINED, as the settings allow: {'; '.join(self._why)}", RuntimeWarning, stacklevel=2
        )
        slot = self._slot()
        slot.start()
        return slot

    def _try(self, tier: Tier) -> Slot | None:
        self.tier = tier
        self._options = replace(self._options, landlock=tier is Tier.FULL)
        slot = self._slot()
        try:
            slot.start()
            problem = "no Landlock in this kernel" if tier is Tier.FULL and not slot.hello["abi"] else ""
            problem = problem or selftest(lambda source: self._run_on(slot, source.encode(), b"", b"", Limits()))
            if not problem:
                return self._with_imports(slot)
        except (SandboxUnavailable, ZygoteDied) as error:
            problem = str(error)
        except BaseException:
            slot.close()
            raise
        slot.close()
        self._why.append(f"{tier}: {problem}")
        return None

    def _with_imports(self, slot: Slot) -> Slot:
        """Programs import what is not preloaded; where that fails (private folders, odd layouts), preload widely."""
        if self.tier is not Tier.FULL:
            return slot
        if self._run_on(slot, LAZY_IMPORT.encode(), b"", b"", Limits()).status is Status.OK:
            return slot
        slot.close()
        self._options = replace(self._options, wide=True)
        slot = self._slot()
        slot.start()
        return slot

    def run(self, source: bytes, stdin: bytes, call: bytes, limits: Limits) -> ExecutionResult:
        """Run one program in the next free slot.

        What may be the sandbox's own failure is tried again, once, and after an error of its own in a fresh zygote. A
        zygote that dies twice was killed by its program.
        """
        slot = self._free.get()
        try:
            result = self._attempt(slot, source, stdin, call, limits)
            if self._doubtful(result) and not self._closed:
                if result.status is Status.SANDBOX_ERROR:
                    slot.close()
                result = self._attempt(slot, source, stdin, call, limits)
        finally:
            self._free.put(slot)
        return ExecutionResult.not_run(Status.SANDBOX_ERROR, "the sandbox was closed") if self._closed else result

    def _attempt(self, slot: Slot, source: bytes, stdin: bytes, call: bytes, limits: Limits) -> ExecutionResult:
        try:
            if not self._closed:
                return self._run_on(slot, source, stdin, call, limits)
        except ZygoteDied as error:
            return ExecutionResult.not_run(Status.KILLED, f"the zygote died twice: {error}")
        except SandboxUnavailable as error:
            return ExecutionResult.not_run(Status.SANDBOX_ERROR, str(error))
        return ExecutionResult.not_run(Status.SANDBOX_ERROR, "the sandbox was closed")

    @staticmethod
    def _doubtful(result: ExecutionResult) -> bool:
        died = result.status is Status.KILLED and result.exit_code is None
        return died or result.status is Status.SANDBOX_ERROR or maybe_killed_from_outside(result)

    def _run_on(self, slot: Slot, source: bytes, stdin: bytes, call: bytes, limits: Limits) -> ExecutionResult:
        outcome = slot.run(source, stdin, call, limits)
        return judge(outcome, limits, slot.hello["stdlib"])

    def describe(self) -> list[str]:
        """Lines for people: what confines programs here, and what they lack."""
        hello: dict[str, Any] = self._hello
        uid = f"programs run as user {hello['uid']}" if hello["uid"] is not None else "programs run as this user"
        threads = "allowed" if hello["threads"] else "not allowed: the kernel cannot count them here"
        missing = hello["missing"]
        return [
            f"tier: {self.tier}" + (f" ({'; '.join(self._why)})" if self._why else ""),
            f"seccomp: {'on' if hello['seccomp'] else 'OFF'}",
            f"Landlock: {'ABI ' + str(hello['abi']) if hello['abi'] else 'not used'}",
            f"user: {uid}{', in a user namespace' if hello['userns'] else ''}",
            f"root folder: {'the standard library' if hello['chroot'] else 'this one: names of files can be seen'}",
            f"threads: {threads}",
            f"interpreter: {hello['implementation']} {hello['python']}, {hello['executable']}",
            "imports: " + (f"not available: {' '.join(missing)}" if missing else "all of the standard library"),
            f"slots: {self.slots}",
        ]

    def close(self) -> None:
        """End all zygotes and the programs in them; runs in progress return `sandbox_error`."""
        self._closed = True
        for slot in self._all:
            slot.interrupt()
        for _ in self._all:
            self._free.get().close()
        for slot in self._all:
            self._free.put(slot)

    def forget(self) -> None:
        """In a forked child: the zygotes are the parent's; start others when needed."""
        for slot in self._all:
            slot.abandon()
        self._fill([])
