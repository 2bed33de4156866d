"""What the machine has and lacks, a line each, with what to do about it; locks that killed builds have left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from latentpad import doctor
from latentpad.cli import main
from latentpad.doctor import builds, machine, packages
from latentpad.doctor.processes import Process, processes
from reward.sandbox import SandboxUnavailable, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOUR = 3600.0
# As FileBaton of torch takes a lock: made and held open. What a process is told in LOCK shows in no command line.
HOLD = "import os; os.open(os.environ['LOCK'], os.O_CREAT | os.O_EXCL); print('held', flush=True); input()"
QUEUE = """
import os
from torch.utils.file_baton import FileBaton
print("up", flush=True)
FileBaton(os.environ["LOCK"]).wait()
"""
WAIT = "print('up', flush=True); input()"


def examine() -> dict[str, bool]:
    return {line: there for there, line in doctor.examine()}


def test_it_names_the_tier_that_contains_programs_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"ok  sandbox: tier: {shared().tier}" in lines
    assert sum(line.startswith("ok  sandbox: ") for line in lines) >= 4
    assert [line for line in lines if "torch" in line]
    assert all(line[:4] in ("ok  ", "-   ") for line in lines)
    for begins in ("memory: ", "disk: ", "threads: ", "python ", "latentpad "):
        assert sum(line[4:].startswith(begins) for line in lines) == 1


def test_a_machine_without_a_sandbox_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise SandboxUnavailable("no seccomp here: use a newer kernel")

    monkeypatch.setattr("latentpad.doctor.shared", none)
    assert doctor.examine()[-1] == (False, "sandbox: no seccomp here: use a newer kernel")


def test_a_missing_package_comes_with_its_use_and_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentpad.doctor.packages.find_spec", lambda _: None)
    line = "is not installed: no supervised arms; to get it: pip install 'latentpad[trl]'"
    assert (False, f"trl {line}") in packages.package_lines()
    assert packages.ray_lines() == []


def test_examining_imports_neither_deepspeed_nor_ray_and_builds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, latentpad.doctor as d; d.examine(); print({'deepspeed', 'ray', 'bitsandbytes'} & {*sys.modules})"
    )
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("running", "line"),
    [
        ([], "no node runs on this machine, RAY_ADDRESS is not set: a run that asks for Ray starts its own"),
        (["bash", "raylet"], "a worker node runs on this machine (process 1), RAY_ADDRESS is not set"),
        (["raylet", "gcs_server"], "a head node runs on this machine (process 0), RAY_ADDRESS is not set"),
    ],
)
def test_a_ray_node_is_seen_and_none_is_started(monkeypatch: pytest.MonkeyPatch, running: list[str], line: str) -> None:
    found = [Process(i, name, "", None) for i, name in enumerate(running)]
    monkeypatch.setattr("latentpad.doctor.packages.find_spec", lambda _: True)
    monkeypatch.setattr("latentpad.doctor.packages.processes", lambda: found)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert packages.ray_lines() == [(True, f"ray: {line}")]


# --- memory


def fake_machine(root: Path, files: dict[str, str]) -> Path:
    files = {"proc/meminfo": "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\n"} | files
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "total", "free"),
    [
        ({}, 1000, 600),
        ({"proc/self/cgroup": "0::/\n"}, 1000, 600),
        # version 2: the limit less what is used, page cache that can be dropped left out
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}/a/b/memory.max": "409600\n",
                f"{V2}/a/b/memory.current": "204800\n",
                f"{V2}/a/b/memory.stat": "anon 1\ninactive_file 102400\n",
            },
            400,
            300,
        ),
        # of a group above, the own one having none
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}/a/b/memory.max": "max\n",
                f"{V2}/a/memory.max": "512000\n",
                f"{V2}/a/memory.current": "409600\n",
            },
            500,
            100,
        ),
        # a limit above what the machine has changes nothing
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "9000000\n"}, 1000, 600),
        # version 1, in a container that does not see its own path
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n",
                f"{V1}/memory.limit_in_bytes": "307200\n",
                f"{V1}/memory.usage_in_bytes": "307200\n",
                f"{V1}/memory.stat": "inactive_file 5\ntotal_inactive_file 51200\n",
            },
            300,
            50,
        ),
        # version 1 without a limit
        (
            {"proc/self/cgroup": "4:memory:/\n", f"{V1}/memory.limit_in_bytes": "9223372036854771712\n"},
            1000,
            600,
        ),
    ],
)
def test_memory_is_what_the_control_group_allows(tmp_path: Path, files: dict[str, str], total: int, free: int) -> None:
    found = machine.memory(fake_machine(tmp_path, files))
    assert (found.total, found.free) == (total * 1024, free * 1024)
    assert found.limited == (total < 1000)


def test_memory_of_this_machine_is_there() -> None:
    found = machine.memory()
    assert 0 < found.free <= found.total


class Cuda:
    """One GPU as torch would tell of it."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability = capability

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def get_device_capability(self, _: int) -> tuple[int, int]:
        return self.capability

    def mem_get_info(self, _: int) -> tuple[int, int]:
        return 10 * 2**30, 16 * 2**30

    def get_device_name(self, _: int) -> str:
        return "T"


@pytest.mark.parametrize(
    ("capability", "says"), [((8, 0), "bf16"), ((7, 5), "no bf16 (training.precision must stay fp32)")]
)
def test_a_gpu_comes_with_memory_capability_and_bf16(capability: tuple[int, int], says: str) -> None:
    major, minor = capability
    line = f"GPU 0: T, 16.0 GB, 10.0 GB free, compute capability {major}.{minor}, {says}"
    assert machine._gpus(Cuda(capability)) == [(True, line)]


def test_threads_that_are_not_limited_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine._threads(3) == (True, "threads: OMP_NUM_THREADS is 3, torch uses 3 in each process")
    monkeypatch.delenv("OMP_NUM_THREADS")
    there, line = machine._threads(8)
    assert not there
    assert "OMP_NUM_THREADS is not set, torch uses 8 in each process" in line


# --- extensions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch builds extensions, for this test alone."""
    home = tmp_path / "extensions"
    home.mkdir()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(home))
    return home


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that wait until the test is over, and have said a word before it goes on."""
    running: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str, cwd: Path = Path("/"), lock: Path | None = None) -> subprocess.Popen[str]:
        command, told = [sys.executable, "-c", code, *arguments], os.environ | {"LOCK": str(lock)}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd, env=told)
        running.append(child)
        assert child.stdout is not None
        assert child.stdout.readline()
        return child

    yield start
    for child in running:
        child.kill()
        child.communicate()


def age(file: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(file, (then, then))


def extension(folder: Path, name: str = "cpu_adam", *, lock_age: float | None = None) -> Path:
    """The folder of a half-built extension, everything in it as old as its lock, or an hour."""
    place = folder / name
    place.mkdir()
    for file in ("build.ninja", f"{name}.o", ".ninja_log"):
        (place / file).write_text(file)
        age(place / file, lock_age or HOUR)
    if lock_age is not None:
        (place / "lock").touch()
        age(place / "lock", lock_age)
    return place


def contents(folder: Path) -> dict[str, tuple[bytes, float]]:
    return {str(f.relative_to(folder)): (f.read_bytes(), f.stat().st_mtime) for f in folder.rglob("*") if f.is_file()}


def clear(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["doctor", "--clear-locks"]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_folder_is_the_one_that_torch_builds_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch.utils.cpp_extension import _get_build_directory

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "own"))
    assert Path(_get_build_directory("x", False)).parent == builds.extensions_folder()
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.setattr("torch.utils.cpp_extension.get_default_build_root", lambda: str(tmp_path / "cache"))
    assert Path(_get_build_directory("x", False)).parent == builds.extensions_folder()


def test_an_old_lock_of_nobody_is_removed_and_nothing_else_is_touched(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = extension(folder, lock_age=HOUR)
    extension(folder, "other")
    (folder / "lock").write_text("no extension")
    before = contents(folder)
    assert clear(capsys) == ["ok  removed the lock of cpu_adam: nothing written for 60 minutes, nobody builds it"]
    assert not (place / "lock").exists()
    assert contents(folder) == {name: seen for name, seen in before.items() if name != "cpu_adam/lock"}
    assert clear(capsys) == [f"ok  no locks in {folder}"]


@pytest.mark.parametrize("seconds", [0.0, 9 * 60.0, -HOUR])
def test_a_fresh_lock_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str], seconds: float) -> None:
    place = extension(folder)
    (place / "lock").touch()
    age(place / "lock", seconds)
    before = contents(folder)
    (line,) = clear(capsys)
    assert line.startswith("-   left alone: extension cpu_adam is locked, ")
    assert "too fresh to be called stale (before 10 minutes)" in line
    assert contents(folder) == before


def test_an_old_lock_in_a_folder_that_is_still_written_to_is_left_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = extension(folder, lock_age=HOUR)
    age(place / "cpu_adam.o", 60)
    assert "nothing written for 1 minutes: too fresh" in clear(capsys)[0]
    assert (place / "lock").exists()


def test_an_old_lock_that_its_maker_still_holds_is_left_alone_until_that_dies(
    folder: Path, capsys: pytest.CaptureFixture[str], started: Callable[..., subprocess.Popen[str]]
) -> None:
    place = extension(folder)
    holder = started(HOLD, lock=place / "lock")
    age(place / "lock", HOUR)
    before = contents(folder)
    (line,) = clear(capsys)
    assert f"process {holder.pid} (" in line
    assert line.startswith("-   left alone: ")
    assert contents(folder) == before
    holder.kill()
    holder.wait()
    assert clear(capsys)[0].startswith("ok  removed the lock of cpu_adam")


def test_one_who_holds_it_under_another_name_is_known_by_the_file(
    folder: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    place = extension(folder)
    holder = started(HOLD, lock=place / "lock")
    (place / "lock").rename(place / "aside")
    assert builds._builder(place, (place / "aside").lstat()).startswith(f"process {holder.pid} (")


@pytest.mark.parametrize("how", ["works in its folder", "names its folder", "works below its folder"])
def test_an_old_lock_with_a_builder_at_work_is_left_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], started: Callable[..., subprocess.Popen[str]], how: str
) -> None:
    place = extension(folder, lock_age=HOUR)
    if how == "names its folder":
        builder = started(WAIT, f"-c {place}/cpu_adam.cpp")
    else:
        (place / "sub").mkdir()
        builder = started(WAIT, cwd=place / "sub" if "below" in how else place)
    (line,) = clear(capsys)
    assert f"process {builder.pid} (" in line
    assert how.replace("below", "in") in line
    assert (place / "lock").exists()


def test_a_builder_of_a_neighbour_of_a_like_name_keeps_no_lock(
    folder: Path, capsys: pytest.CaptureFixture[str], started: Callable[..., subprocess.Popen[str]]
) -> None:
    extension(folder, lock_age=HOUR)
    (folder / "cpu_adam_2").mkdir()
    started(WAIT, cwd=folder / "cpu_adam_2")
    assert clear(capsys)[0].startswith("ok  removed the lock of cpu_adam")


def test_a_lock_taken_anew_at_the_moment_of_removal_is_put_back(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    started: Callable[..., subprocess.Popen[str]],
) -> None:
    """Between the look and the move the stale lock goes and a new builder takes its own."""
    place, rename, holders = extension(folder, lock_age=HOUR), Path.rename, []

    def late(self: Path, target: Path) -> Path:
        self.unlink()
        holders.append(started(HOLD, lock=self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert clear(capsys) == ["-   left alone: the lock of cpu_adam was taken anew at that very moment"]
    assert sorted(f.name for f in place.iterdir()) == [".ninja_log", "build.ninja", "cpu_adam.o", "lock"]
    assert holders[0].poll() is None
    assert "holds it" in builds.find_locks(folder)[0].builder


def test_a_newer_lock_is_not_replaced_by_the_one_that_is_put_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, real, seen = extension(folder, lock_age=HOUR), builds._builder, []

    def late(where: Path, file: os.stat_result) -> str:
        seen.append(where)
        if len(seen) < 3:  # two looks before the move, one after it
            return real(where, file)
        (place / "lock").write_text("newer")
        return "process 1 (ninja) works in its folder"

    monkeypatch.setattr(builds, "_builder", late)
    assert builds.clear_locks(folder)[0][0] is False
    assert (place / "lock").read_text() == "newer"
    assert len(list(place.iterdir())) == 4


def test_a_lock_of_another_user_or_on_an_unknown_system_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = extension(folder, lock_age=HOUR)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        assert "belongs to another user" in builds.clear_locks(folder)[0][1]
    monkeypatch.setattr(builds, "PROC", tmp_path / "none")
    assert "does not tell which processes run" in builds.clear_locks(folder)[0][1]
    assert (place / "lock").exists()


def test_a_lock_that_is_a_link_or_a_folder_is_none_of_ours(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    for name in ("linked", "nested"):
        (folder / name).mkdir()
    (folder / "linked" / "lock").symlink_to(tmp_path / "precious")
    (folder / "nested" / "lock").mkdir()
    assert builds.clear_locks(folder) == [(True, f"no locks in {folder}")]
    assert builds.clear_locks(tmp_path / "nowhere") == [(True, f"no locks in {tmp_path / 'nowhere'}")]
    assert (folder / "linked" / "lock").is_symlink()


def test_a_start_that_waits_keeps_no_stale_lock_and_goes_on_once_it_is_gone(
    folder: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    """The hang itself, in torch's own waiting."""
    place = extension(folder, lock_age=HOUR)
    waiting = started(QUEUE, lock=place / "lock")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)
    assert builds.clear_locks(folder)[0][0]
    assert waiting.wait(20) == 0


def test_examining_tells_of_a_stale_lock_and_what_is_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentpad.doctor.builds.find_spec", lambda _: None)
    assert builds.build_lines() == []
    monkeypatch.setattr(
        "latentpad.doctor.builds.find_spec", lambda _: type("Spec", (), {"submodule_search_locations": []})
    )
    extension(folder, lock_age=HOUR)
    lines = {line: there for there, line in builds.build_lines()}
    assert any(line.startswith("extension cpu_adam is not built (") and there for line, there in lines.items())
    (locked,) = [line for line in lines if "is locked" in line]
    assert not lines[locked]
    assert locked.endswith("would hang without a word; run 'latentpad doctor --clear-locks'")
    (folder / "cpu_adam" / "cpu_adam.so").touch()
    assert any(there and line.startswith("extension cpu_adam is built: ") for there, line in builds.build_lines())


def test_without_a_compiler_or_ninja_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentpad.doctor.builds.shutil.which", lambda _: None)
    monkeypatch.setenv("CXX", "clang++")
    assert builds._compiler()[1].startswith("no C++ compiler (clang++): ")
    assert builds._ninja()[0] is False


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("pass", (True, "cpu_adam: built in 0 s")),
        ("import sys; sys.exit(4)", (True, "cpu_adam: not for this device")),
        ("raise RuntimeError('no ninja')", (False, "cpu_adam: failed after 0 s: RuntimeError: no ninja")),
    ],
)
def test_a_build_ends_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, line: tuple[bool, str]
) -> None:
    monkeypatch.setattr(builds, "_BUILD", code)
    monkeypatch.setattr(builds, "is_built", lambda *_: False)
    assert builds._prebuild(folder, "cpu_adam", "CPUAdamBuilder") == line


def test_a_build_that_would_hang_on_a_stale_lock_is_not_begun(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in builds.EXTENSIONS:
        extension(folder, name, lock_age=HOUR)
    monkeypatch.setattr(builds, "find_spec", lambda _: type("Spec", (), {"submodule_search_locations": []}))
    monkeypatch.setattr(builds, "_BUILD", "raise SystemExit('begun')")
    assert main(["doctor", "--prebuild"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(builds.EXTENSIONS) > 0
    assert all("not built: " in line and "--clear-locks" in line for line in lines)


def test_processes_are_seen_with_their_command_and_folder(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    child = started(WAIT, "a word", cwd=tmp_path)
    (found,) = [process for process in processes() if process.pid == child.pid]
    assert found.command.endswith("a word")
    assert found.cwd == tmp_path
    assert os.getpid() not in {process.pid for process in processes()}
