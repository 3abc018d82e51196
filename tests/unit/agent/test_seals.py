"""Seals that are made at the same time, as at a workspace's end: each is linked to the one before it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from microagent.agent.seals import Seals
from microagent.audit import chain
from microagent.audit.record import Event, Record, body
from microagent.audit.seal import read_seal
from microagent.audit.verify import LogFile, Report, verify

COUNT = 400


def log() -> list[bytes]:
    lines, link = [], chain.START
    for seq in range(1, COUNT + 1):
        unlinked = body(Record(Event.GAP), ts="2026-01-02T03:04:05.000006Z", seq=seq, ident="x", workspace="w")
        line, link = chain.link(link, unlinked)
        lines.append(line[:-1])
    return lines


def test_seals_made_at_once_are_one_chain(tmp_path: Path) -> None:
    seals, lines = Seals(tmp_path), log()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda line: seals.seal("w", line), lines))
    report = verify([], seals.lines("w"), seals.public_key, "seals")
    assert report.seals > 1
    assert [fault.what for fault in report.faults if fault.file == "seals"] == []
    seals.close()


def test_a_rotation_that_was_cut_short_is_finished_once(tmp_path: Path) -> None:
    """The agent is killed when the file has its new name, and no seal yet: later nothing would be linked to its end."""
    lines, per_file = log(), 10
    files = [LogFile(f"f{at}", lines[at : at + per_file]) for at in range(per_file, 9 * per_file, per_file)]

    def sealed(directory: Path, *, finished: bool) -> Report:
        directory.mkdir()
        seals = Seals(directory)
        seals.seal("w", lines[4])
        if finished:
            seals.finish_rotation("w", lines[per_file - 1])
            # Another agent that is killed at once finds it done, and one that comes much later finds what came since.
            seals.finish_rotation("w", lines[per_file - 1])
        for end in range(2 * per_file, 9 * per_file, per_file):
            seals.seal("w", lines[end - 1], rotated=True)
            seals.finish_rotation("w", lines[end - 1])
            seals.seal("w", lines[end])
            seals.finish_rotation("w", lines[end - 1])
        seals.close()
        again = Seals(directory)
        again.finish_rotation("w", lines[8 * per_file - 1])
        again.seal("w", lines[9 * per_file - 1])
        report = verify(files, again.lines("w"), again.public_key, "seals")
        again.close()
        return report

    assert sealed(tmp_path / "finished", finished=True).faults == []
    (fault,) = sealed(tmp_path / "cut short", finished=False).faults
    assert fault.what == "the records before 11 are gone"
    # Where the end was sealed before the rotation, and where it was not.
    for at in (4, per_file - 1):
        seals = Seals(tmp_path / f"{at}")
        seals.seal("w", lines[at])
        seals.finish_rotation("w", lines[per_file - 1])
        assert [(s.seq, s.rotated) for s in (read_seal(line, seals.public_key) for line in seals.lines("w"))] == [
            (at + 1, 0),
            (per_file, 1),
        ]
        seals.close()
