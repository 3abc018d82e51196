"""Seals that are made at the same time, as at a workspace's end: each is linked to the one before it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from microagent.agent.seals import Seals
from microagent.audit import chain
from microagent.audit.record import Event, Record, body
from microagent.audit.verify import verify

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
