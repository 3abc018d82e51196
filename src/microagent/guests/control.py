"""What a guest's init says on the control port, and what it understands. Pure. The other side is vm_fixtures/init."""

from dataclasses import dataclass

from microagent.errors import Malformed

# "failed" and a line of text; everything else is shorter.
MAX_LINE = 512
# A 64-bit count of bytes has 20 digits at most.
_MAX_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Started:
    """The guest's init runs."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The machine is made and the command starts."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The command ended with `code` (128+N for signal N), having written that many bytes; disks are synced."""

    code: int
    stdout: int
    stderr: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The machine could not be made."""

    what: str


Report = Started | Ready | Exited | Failed


def parse_report_untrusted(line: bytes) -> Report:
    """One line of the control port, without its newline; Malformed for anything init does not say."""
    if len(line) > MAX_LINE:
        raise Malformed("a report longer than any")
    word, _, rest = line.partition(b" ")
    if line == b"started":
        return Started()
    if line == b"ready":
        return Ready()
    if word == b"failed":
        return Failed(printable_untrusted(rest))
    numbers = rest.split(b" ")
    if word != b"exit" or len(numbers) != 3 or not all(n.isdigit() and len(n) <= _MAX_DIGITS for n in numbers):
        raise Malformed("not a report")
    code, stdout, stderr = map(int, numbers)
    if code > 255:
        raise Malformed("not an exit code")
    return Exited(code, stdout, stderr)


def shutdown_request(seconds: int) -> bytes:
    """Asks for TERM to the command, and KILL after so many seconds."""
    return b"shutdown %d\n" % seconds


def printable_untrusted(data: bytes) -> str:
    """Text that can neither end a line nor colour a terminal: anything but printable ASCII becomes a dot."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
