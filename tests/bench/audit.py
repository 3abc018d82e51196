"""P11: how fast records are written, verified, and found at the end of a long log."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.bench.row import Row

from microagent.audit.archive import verify_log
from microagent.audit.chain import START, head
from microagent.audit.record import Event, Record
from microagent.audit.seal import Seal, digest
from microagent.mediator.journal import Journal

RECORDS = 1_000_000
LONG = 1 << 30

_RECORD = Record(
    Event.ALLOW,
    {
        "host": "api.example.org",
        "dst": "203.0.113.10:443",
        "dialed": "203.0.113.10:443",
        "proto": "tls",
        "tls": "intercept",
        "reason": "name_listed",
        "rule": "allow: api.example.org",
        "flow": "mmenrftykncp",
    },
)
# Only the reading is timed, in a process that has read nothing before.
_TAIL = """
import sys, time
from pathlib import Path
from microagent.audit.reader import Filter
from microagent.audit.tail import read
began = time.perf_counter()
found = list(read(Path(sys.argv[1]), Filter(), 100))
print(time.perf_counter() - began, len(found))
"""


def run() -> list[Row]:
    """On a file system in memory: the disk is not what is measured."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        log = Path(directory) / "egress.jsonl"
        written = _write(log)
        verified = _verify(log)
        opened = _tail(log)
    return [
        Row("P11", "records written, chained, a second", f"{RECORDS / written:.0f}", "≥ 30 000"),
        Row("P11", f"{RECORDS} records verified against chain and seals", f"{verified:.1f} s", "≤ 10 s"),
        Row("P11", "the last 100 records of a log of 1 GB", f"{opened:.3f} s", "≤ 0.2 s"),
    ]


def _write(log: Path) -> float:
    ids = iter(range(RECORDS))
    journal = Journal(os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "bench", lambda: f"{next(ids):012}")
    began = time.perf_counter()
    for _ in range(RECORDS):
        journal.write(_RECORD)
    return time.perf_counter() - began


def _verify(log: Path) -> float:
    key = Ed25519PrivateKey.generate()
    seals, before = [], START
    with log.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number % 30_000 == 0:  # a seal a second, at the rate that is asked for
                found = head(line[:-1])
                assert found is not None
                seals.append(Seal(found.ts, found.seq, found.chain, 0, before).sign(key))
                before = digest(seals[-1])
    began = time.perf_counter()
    report = verify_log(log, seals, key.public_key())
    elapsed = time.perf_counter() - began
    if not report.whole or report.records != RECORDS:
        raise AssertionError(report)
    return elapsed


def _tail(log: Path) -> float:
    block = log.read_bytes()[: 64 << 20]
    block = block[: block.rindex(b"\n") + 1]
    with log.open("ab") as file:
        while file.tell() < LONG:
            file.write(block)
    done = subprocess.run([sys.executable, "-c", _TAIL, str(log)], capture_output=True, text=True, check=True)
    elapsed, found = json.loads(f"[{done.stdout.replace(' ', ',')}]")
    if found != 100:
        raise AssertionError(done.stdout)
    return float(elapsed)
