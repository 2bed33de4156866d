"""System call numbers and kernel constants that programs may meet, for each architecture."""

from __future__ import annotations

from dataclasses import dataclass

VERIFIED = frozenset({"x86_64"})
"""Where the hostile programs have been run. Elsewhere the local backend refuses to start."""


@dataclass(frozen=True)
class Architecture:
    """One 64-bit Linux architecture: its audit number, open(2) flags that differ, and its system calls."""

    name: str
    audit: int
    o_directory: int
    o_nofollow: int
    o_largefile: int
    numbers: dict[str, int]


def _table(text: str) -> dict[str, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


_X86_64 = _table("""
    read 0 write 1 close 3 stat 4 fstat 5 lstat 6 poll 7 lseek 8 mmap 9 mprotect 10 munmap 11 brk 12 rt_sigaction 13
    rt_sigprocmask 14 rt_sigreturn 15 ioctl 16 pread64 17 readv 19 writev 20 select 23 sched_yield 24 mremap 25
    madvise 28 dup 32 dup2 33 pause 34 nanosleep 35 getitimer 36 alarm 37 setitimer 38 getpid 39 socket 41 clone 56
    fork 57 vfork 58 execve 59 exit 60 kill 62 uname 63 fcntl 72 getcwd 79 gettimeofday 96 getrusage 98 sysinfo 99
    times 100 getuid 102 getgid 104 geteuid 107 getegid 108 getppid 110 getpgrp 111 rt_sigpending 127
    rt_sigtimedwait 128 rt_sigsuspend 130 sigaltstack 131 personality 135 prctl 157 gettid 186 time 201 futex 202
    sched_getaffinity 204 getdents64 217 restart_syscall 219 clock_gettime 228 clock_getres 229 clock_nanosleep 230
    exit_group 231 tgkill 234 openat 257 newfstatat 262 pselect6 270 ppoll 271 set_robust_list 273 unshare 272
    dup3 292 prlimit64 302 getcpu 309 seccomp 317 getrandom 318 capset 126 rseq 334 clone3 435 close_range 436
    openat2 437 faccessat2 439 landlock_create_ruleset 444 landlock_add_rule 445 landlock_restrict_self 446
    pwritev2 328 statx 332 chroot 161
""")

_AARCH64 = _table("""
    getcwd 17 dup 23 dup3 24 fcntl 25 ioctl 29 openat 56 close 57 getdents64 61 lseek 62 read 63 write 64 readv 65
    writev 66 pread64 67 pselect6 72 ppoll 73 newfstatat 79 fstat 80 exit 93 exit_group 94 futex 98
    set_robust_list 99 nanosleep 101 getitimer 102 setitimer 103 unshare 97 personality 92 clock_gettime 113
    clock_getres 114 clock_nanosleep 115 sched_getaffinity 123 sched_yield 124 restart_syscall 128 kill 129
    tgkill 131 sigaltstack 132 rt_sigsuspend 133 rt_sigaction 134 rt_sigprocmask 135 rt_sigpending 136
    rt_sigtimedwait 137 rt_sigreturn 139 times 153 uname 160 getrusage 165 prctl 167 getcpu 168 gettimeofday 169
    getpid 172 getppid 173 getuid 174 geteuid 175 getgid 176 getegid 177 gettid 178 sysinfo 179 capset 91 socket 198
    brk 214 munmap 215 mremap 216 clone 220 execve 221 mmap 222 mprotect 226 madvise 233 prlimit64 261 seccomp 277
    getrandom 278 chroot 51 pwritev2 287 statx 291 rseq 293 clone3 435 close_range 436 openat2 437 faccessat2 439
    landlock_create_ruleset 444 landlock_add_rule 445 landlock_restrict_self 446
""")

ARCHITECTURES = {
    "x86_64": Architecture("x86_64", 0xC000003E, 0o200000, 0o400000, 0o100000, _X86_64),
    "aarch64": Architecture("aarch64", 0xC00000B7, 0o40000, 0o100000, 0o400000, _AARCH64),
}
