"""Is the log what was written? Every line against the chain, the chain against the seals.

A fault is reported where it shows, and reading goes on from the line after it as if that were right, so that one fault
is one problem and not a thousand.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from microagent.audit.chain import START, Head, check, head
from microagent.audit.logfile import ROTATED
from microagent.audit.seal import Seal, digest, read_seal
from microagent.errors import Malformed

# Enough to see what happened; a file of noise would have millions.
MAX_PROBLEMS = 20
# What a mediator writes after a line that was never finished (mediator.journal).
_AFTER_TORN = b'"torn":true'


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of a log: its name, and its lines without their newlines."""

    name: str
    lines: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and where: the file, the line from 1 (0: the file as a whole), the time of the record."""

    file: str
    line: int
    ts: str
    what: str


@dataclass(slots=True)
class Report:
    """What was read: records from `first` to `last` (their numbers), and how many seals vouch for them."""

    files: int = 0
    records: int = 0
    first: int = 0
    last: int = 0
    sealed: int = 0
    seals: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def add(self, fault: Fault) -> None:
        """One more, if there is room."""
        if len(self.faults) < MAX_PROBLEMS:
            self.faults.append(fault)


def verify(
    files: Iterable[LogFile], seals: Iterable[bytes], key: Ed25519PublicKey, seals_name: str, *, ended: bool = False
) -> Report:
    """Read a log, oldest file first, against its seals, oldest first; both as lines without newlines.

    `ended`: nobody writes it any more, so that its last record should be sealed.
    """
    report = Report()
    vouched = list(_seals(report, seals, key, seals_name))
    reading = _Reading(report, vouched, ended)
    for file in files:
        report.files += 1
        reading.file(file)
    reading.end()
    return report


def _seals(report: Report, lines: Iterable[bytes], key: Ed25519PublicKey, name: str) -> Iterator[Seal]:
    before, newest = "", 0
    for number, line in enumerate(lines, 1):
        try:
            seal = read_seal(line, key)
        except Malformed as error:
            report.add(Fault(name, number, "", error.what))
            continue
        if before and seal.before != before:
            report.add(Fault(name, number, seal.ts, "a seal before this one is missing or was changed"))
        if seal.seq < newest:
            report.add(Fault(name, number, seal.ts, "a seal that is older than the one before it"))
        before, newest = digest(line), max(newest, seal.seq)
        report.seals += 1
        yield seal


class _Reading:
    def __init__(self, report: Report, seals: list[Seal], ended: bool) -> None:
        self._report = report
        self._ended = ended
        self._last = seals[-1] if seals else None
        self._sealed = {seal.seq: seal for seal in seals}
        # Where files ended. Of the seals of what was rotated out only the last is kept, and it is at such an end.
        self._ends = {seal.seq for before, seal in pairwise(seals) if seal.rotated > before.rotated}
        self._ends |= {seal.seq for seal in seals[:1] if seal.rotated}
        self._previous: Head | None = None
        self._torn: tuple[str, int] | None = None
        self._names: list[str] = []

    def file(self, file: LogFile) -> None:
        self._names.append(file.name)
        for number, line in enumerate(file.lines, 1):
            found = head(line)
            if found is None:
                self._is_torn(file.name, number)
            else:
                self._record(file.name, number, line, found)

    def end(self) -> None:
        report, last = self._report, self._last
        self._not_torn()
        if last is None:
            if report.records:
                report.add(Fault("", 0, "", "there are no seals, so nothing vouches for the chain"))
            return
        if last.seq > report.last:
            what = f"the log ends at record {report.last}, but record {last.seq} was there at {last.ts}"
            report.add(Fault(self._names[-1] if self._names else "", 0, last.ts, what))
        expected = min(last.rotated, ROTATED) + 1
        if len(self._names) < expected and report.last >= last.seq:
            what = f"{expected - len(self._names)} of {expected} files are gone"
            report.add(Fault(self._names[0] if self._names else "", 0, "", what))
        report.sealed = min(last.seq, report.last)

    def _record(self, name: str, number: int, line: bytes, found: Head) -> None:
        report, previous = self._report, self._previous
        if self._torn is not None and _AFTER_TORN in line:
            self._torn = None
        self._not_torn()
        if previous is None:
            report.first = found.seq
            before = START if found.seq == 1 else self._link_before(found.seq)
        else:
            before = previous.chain
        if before is None:
            report.add(Fault(name, number, found.ts, f"the records before {found.seq} are gone"))
        elif previous is not None and found.seq > previous.seq + 1:
            missing = found.seq - previous.seq - 1
            report.add(Fault(name, number, found.ts, f"{missing} records are missing before record {found.seq}"))
        elif previous is not None and found.seq <= previous.seq:
            what = f"record {found.seq} comes after record {previous.seq}: moved, repeated or inserted"
            report.add(Fault(name, number, found.ts, what))
        elif check(before, line) is None:
            report.add(Fault(name, number, found.ts, f"record {found.seq} was changed, or the one before it was"))
        if self._ended and self._last is not None and found.seq == self._last.seq + 1:
            what = f"record {found.seq} came after the last seal, made at {self._last.ts} when all had ended"
            report.add(Fault(name, number, found.ts, what))
        seal = self._sealed.get(found.seq)
        if seal is not None and seal.chain != found.chain:
            report.add(Fault(name, number, found.ts, f"record {found.seq} is not the one that was sealed at {seal.ts}"))
        report.records += 1
        report.last = max(report.last, found.seq)
        self._previous = found

    def _link_before(self, seq: int) -> str | None:
        """Of a log whose beginning was rotated out: the seal that was made then has the last link of what went."""
        return self._sealed[seq - 1].chain if seq - 1 in self._ends else None

    def _is_torn(self, name: str, number: int) -> None:
        self._not_torn()
        self._torn = name, number

    def _not_torn(self) -> None:
        if self._torn is not None:
            self._report.add(Fault(*self._torn, "", "not a record"))
            self._torn = None
