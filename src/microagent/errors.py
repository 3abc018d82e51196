"""The four ways things go wrong, told apart by whose fault it is.

A denial is none of them: it is a `decision.Verdict`.
"""

import errno
from dataclasses import dataclass


class MicroagentError(Exception):
    """What went wrong, and what to do about it.

    `what` completes the line "error: …"; `hint`, when there is one, the line "hint: …".
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class Malformed(MicroagentError):  # noqa: N818  (the name is the verdict: the bytes are malformed)
    """The peer sent bytes that no standard allows, or that can be read in two ways."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in what the user wrote; `line` and `column` count from 1, 0 where there is none."""

    what: str
    hint: str = ""
    source: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """`file:line:column: what`, as compilers write it."""
        place = ":".join(str(part) for part in (self.source, self.line, self.column) if part)
        return f"{place}: {self.what}" if place else self.what


class PolicyError(MicroagentError):
    """What the user wrote cannot be a policy (or a workspace's settings); nothing of it was applied."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(p) for p in problems), "\n".join(p.hint for p in problems if p.hint))
        self.problems = problems


class HostError(MicroagentError):
    """This machine cannot do what was asked: something is missing, full, or not permitted."""


SPACE = "free some space below state_dir (/var/lib/microagent by default), or delete workspaces"
_SHORT = {
    errno.EMFILE: "the agent has no descriptors left: raise LimitNOFILE= of its unit (`ulimit -n` for one by hand)",
    errno.ENFILE: "the machine has no descriptors left: raise fs.file-max",
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EROFS: "the file system is read-only; the kernel's log (dmesg) may say why",
    errno.EAGAIN: "no more processes can be started: raise kernel.pid_max, or the pids.max of the agent's cgroup",
    errno.ENOMEM: "stop workspaces, or give them less with --memory",
}


def host_error(error: OSError, doing: str = "") -> HostError:
    """What the system refused, with what to do about it where something is short; `doing` says what was tried."""
    words = error.strerror or str(error)
    where = f" ({error.filename})" if isinstance(error.filename, str) else ""
    return HostError(f"{doing}: {words}" if doing else f"{words}{where}", _SHORT.get(error.errno or 0, ""))


class ApiError(MicroagentError):
    """The agent refused a request. `code` is a stable word (`not_found`, `invalid`, `busy`, …)."""

    def __init__(self, code: str, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.code = code
