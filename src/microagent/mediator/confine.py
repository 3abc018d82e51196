"""Giving up what the mediator does not need, in stages, each as early as it can be.

How this works. The process begins as a fork of the nursery, which is root. In this order:
1. limits: no core dumps (they would hold plaintext and keys), bounded descriptors;
2. identity: no supplementary groups, then the workspace's own gid and uid, for good; that empties the capability
   sets; no_new_privs, so that nothing executed later could gain any;
3. files: a Landlock ruleset that allows nothing: no path can be opened, made or executed from here on;
4. system calls: those that a relay makes, and no others (seccomp), sockets for IPv4 and IPv6 alone, and nothing that
   would let the log be written but at its end; what is refused fails with EPERM.
Sockets that are open stay open: the listeners in the workspace's namespace, the log, the line to the agent.
"""

import ctypes
import os
import resource
import socket
import sys
import termios

import seccomp

from microagent.api.limits import Limits
from microagent.errors import HostError

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_LAST_CAPABILITY = 63
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_VERSION_FLAG = 1
# Every file right of Landlock's first version; later ones add to it, by version (linux/landlock.h).
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}

# Besides what the connections need: listeners, lookups, pooled pipes, and UDP flows of one socket each.
_OTHER_DESCRIPTORS = 2048

_SYSCALLS = """
    accept4 bind brk clock_gettime clock_nanosleep close connect dup dup2 epoll_create1 epoll_ctl epoll_pwait epoll_wait
    exit exit_group fstat newfstatat futex getpeername getpid getrandom getsockname getsockopt gettid
    lseek madvise memfd_create mprotect mremap munmap openat pipe2 poll pread64 read recvfrom recvmsg
    restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn sched_yield sendmsg sendto setsockopt shutdown sigaltstack
    splice write writev
"""
# New sockets are for the internet alone: not for the host's own services on unix sockets, nor for netlink.
_SOCKET_DOMAINS = (socket.AF_INET, socket.AF_INET6)
# Whether it blocks, whether it goes to children, where TCP's urgent mark is, and whether it is a terminal (ioctl(2)).
_REQUESTS = (0x5421, 0x5450, 0x5451, 0x8905, termios.TCGETS)
_F_SETPIPE_SZ = 1031  # linux/fcntl.h
_MAP_TYPE, _MAP_PRIVATE = 0x0F, 0x02

_libc = ctypes.CDLL(None, use_errno=True)


def descriptors_for(limits: Limits) -> int:
    """How many a mediator may have: a connection takes two, and four more for its pipes while it is spliced."""
    return 6 * limits.connections + limits.udp_flows + _OTHER_DESCRIPTORS


def confine(uid: int, descriptors: int) -> None:
    """All four stages; HostError names the one that this kernel cannot do. There is no way back."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # past the last one the kernel has, it says EINVAL
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "non-dumpable")
    _landlock()
    _seccomp()


def _landlock() -> None:
    version = _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION_FLAG)
    _check(version, "Landlock")
    rights = _FILE_RIGHTS[max(v for v in _FILE_RIGHTS if v <= version)]
    attributes = ctypes.c_uint64(rights)
    ruleset = _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    _check(ruleset, "Landlock")
    _check(_libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _seccomp() -> None:
    rules = seccomp.SyscallFilter(seccomp.ERRNO(1))
    for name in _SYSCALLS.split():
        rules.add_rule(seccomp.ALLOW, name)
    for domain in _SOCKET_DOMAINS:
        rules.add_rule(seccomp.ALLOW, "socket", seccomp.Arg(0, seccomp.EQ, domain))
    for request in _REQUESTS:
        rules.add_rule(seccomp.ALLOW, "ioctl", seccomp.Arg(1, seccomp.EQ, request))
    # F_SETFL could take the log's O_APPEND away, and a shared mapping writes wherever it likes. It is not enough to
    # leave F_SETFL out: the kernel reads the lower half of the command alone, the filter all 64 bits.
    rules.add_rule(seccomp.ALLOW, "fcntl", seccomp.Arg(1, seccomp.EQ, _F_SETPIPE_SZ))
    rules.add_rule(seccomp.ALLOW, "mmap", seccomp.Arg(3, seccomp.MASKED_EQ, _MAP_TYPE, _MAP_PRIVATE))
    rules.load()


def _check(code: int, stage: str) -> None:
    if code < 0:
        error = ctypes.get_errno()
        raise HostError(f"cannot confine the mediator ({stage}): {os.strerror(error)}", f"see `{sys.argv[0]} doctor`")
