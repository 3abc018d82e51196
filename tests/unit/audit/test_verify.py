"""Every way to tamper with a log is found where it is, and an honest log is whole."""

import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from microagent.audit import chain
from microagent.audit.archive import export, verify_archive, verify_log
from microagent.audit.record import Event, Record, body
from microagent.audit.seal import Seal, digest, read_seal
from microagent.audit.verify import LogFile, Report, verify
from microagent.errors import HostError, Malformed

KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
COUNT = 30


def lines(count: int = COUNT, host: str = "api.ok.test") -> list[bytes]:
    made, link = [], chain.START
    for seq in range(1, count + 1):
        record = Record(Event.ALLOW, {"host": host})
        text = body(record, ts=f"2026-03-01T12:00:{seq:02}.000000Z", seq=seq, ident=f"id{seq}", workspace="lab")
        line, link = chain.link(link, text)
        made.append(line[:-1])
    return made


LINES = lines()


def seals(at: tuple[int, ...], log: list[bytes] = LINES, key: Ed25519PrivateKey = KEY, rotated: int = 0) -> list[bytes]:
    made, before = [], chain.START
    for seq in at:
        head = chain.head(log[seq - 1])
        assert head is not None
        made.append(Seal(f"2026-03-01T12:00:{seq:02}.500000Z", seq, head.chain, rotated, before).sign(key))
        before = digest(made[-1])
    return made


SEALS = seals((10, 20, COUNT))


def report(log: list[bytes], vouched: list[bytes] = SEALS) -> Report:
    return verify([LogFile("egress.jsonl", log)], vouched, KEY.public_key(), "seals.jsonl")


def test_an_honest_log_is_whole() -> None:
    found = report(LINES)
    assert (found.whole, found.records, found.first, found.last, found.sealed) == (True, COUNT, 1, COUNT, COUNT)
    # What is newer than the newest seal is what is still being written.
    assert report(LINES, seals((10, 20))).sealed == 20


def changed(log: list[bytes]) -> list[bytes]:
    return [*log[:14], log[14].replace(b"api.ok", b"api.no"), *log[15:]]


TAMPERED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int, str]] = {
    "a byte changed": (changed, 15, "record 15 was changed"),
    "a line removed": (lambda log: log[:14] + log[15:], 15, "1 records are missing before record 16"),
    "three lines removed": (lambda log: log[:14] + log[17:], 15, "3 records are missing"),
    "the first lines removed": (lambda log: log[3:], 1, "the records before 4 are gone"),
    "two lines swapped": (lambda log: [*log[:14], log[15], log[14], *log[16:]], 15, "missing before record 16"),
    "a line repeated": (lambda log: log[:15] + log[14:], 16, "moved, repeated or inserted"),
    "a line from elsewhere": (lambda log: [*log[:15], lines(15, "evil.test")[14], *log[15:]], 16, "inserted"),
    "a line that is no record": (lambda log: [*log[:15], b"hello", *log[15:]], 16, "not a record"),
    "an empty line": (lambda log: [*log[:15], b"", *log[15:]], 16, "not a record"),
    "the end cut off": (lambda log: log[:25], 0, "the log ends at record 25, but record 30 was there"),
    "everything gone": (lambda _: [], 0, "the log ends at record 0"),
    "an older copy put back": (lambda log: log[:12], 0, "the log ends at record 12"),
    "all made anew": (lambda _: lines(COUNT, "evil.test"), 10, "is not the one that was sealed"),
    "the last third made anew": (lambda log: log[:15] + lines(COUNT, "evil.test")[15:], 16, "record 16 was changed"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampering_is_found_where_it_is(case: str) -> None:
    tamper, line, what = TAMPERED[case]
    found = report(tamper(LINES))
    assert not found.whole
    assert found.faults[0].line == line, found.faults
    assert what in found.faults[0].what
    assert len(found.faults) <= 3


def test_a_forged_record_after_the_last_seal_is_found_once_all_has_ended() -> None:
    """The chain is no secret: whoever may write the file can go on with it, but not sign."""
    found = verify([LogFile("egress.jsonl", LINES)], seals((10, 20)), KEY.public_key(), "s")
    assert (found.whole, found.sealed, found.last) == (True, 20, 30)
    found = verify([LogFile("egress.jsonl", LINES)], seals((10, 20)), KEY.public_key(), "s", ended=True)
    assert [(fault.line, "after the last seal" in fault.what) for fault in found.faults] == [(21, True)]
    assert verify([LogFile("egress.jsonl", LINES)], SEALS, KEY.public_key(), "s", ended=True).whole


@pytest.mark.parametrize("between", [b"\r\n", b"\r", b" \n", b"\n\n", b"\0\n"])
def test_no_byte_between_the_lines_goes_unseen(tmp_path: Path, between: bytes) -> None:
    log = tmp_path / "egress.jsonl"
    log.write_bytes(b"\n".join(LINES) + b"\n")
    assert verify_log(log, SEALS, KEY.public_key()).whole
    log.write_bytes(b"\n".join(LINES[:20]) + between + b"\n".join(LINES[20:]) + b"\n")
    assert not verify_log(log, SEALS, KEY.public_key()).whole


def test_the_time_is_named() -> None:
    assert report(changed(LINES)).faults[0].ts == "2026-03-01T12:00:15.000000Z"


def test_noise_is_a_few_problems_and_not_a_million() -> None:
    assert len(report([b"noise"] * 100_000).faults) == 20


@pytest.mark.parametrize(
    ("vouched", "what"),
    [
        (SEALS[:1] + SEALS[2:], "a seal before this one is missing"),
        ([SEALS[1], SEALS[0], SEALS[2]], "missing or was changed"),
        ([SEALS[0].replace(b'"seq":10', b'"seq":11'), *SEALS[1:]], "did not sign"),
        (seals((10, 20, COUNT), key=OTHER), "did not sign"),
        ([], "there are no seals"),
        ([b"{}"], "did not sign"),
    ],
)
def test_tampering_with_seals_is_found(vouched: list[bytes], what: str) -> None:
    found = report(LINES, vouched)
    assert what in found.faults[0].what


def test_a_seal_that_goes_back_is_found_though_the_key_made_it() -> None:
    """As when an agent goes on from an older copy of its seals."""
    made = seals((10, 20))
    made.append(_after(made[-1], 15, 0))
    (fault,) = report(LINES[:20], made).faults
    assert (fault.file, fault.line, "older than the one before" in fault.what) == ("seals.jsonl", 3, True)
    again = [*made[:2], _after(made[1], 20, 0)]
    assert report(LINES[:20], again).whole


def test_a_torn_line_is_fine_when_the_next_record_tells_of_it() -> None:
    def log(fields: dict[str, object]) -> list[bytes]:
        head = chain.head(LINES[9])
        assert head is not None
        text = body(Record(Event.GAP, fields), ts="2026-03-01T12:00:11.000000Z", seq=11, ident="x", workspace="lab")
        return [*LINES[:10], LINES[10][:40], chain.link(head.chain, text)[0][:-1]]

    assert report(log({"why": "a line could not be written whole", "torn": True}), seals((10,))).whole
    assert report(log({"why": "the mediator died"}), seals((10,))).faults[0].what == "not a record"
    # The next record, and no later one; and one has to come.
    torn, gap = log({"why": "a line could not be written whole", "torn": True})[-2:]
    late = report([*LINES[:9], torn, LINES[9], gap], seals((10,))).faults
    assert [(fault.line, fault.what) for fault in late] == [(10, "not a record")]
    (last,) = report([*LINES[:10], torn], seals((10,))).faults
    assert (last.file, last.line, last.what) == ("egress.jsonl", 11, "not a record")


def rotated(*sizes: int) -> list[LogFile]:
    files, start = [], 0
    for index, size in enumerate(sizes):
        name = f"egress.jsonl.{len(sizes) - 1 - index}".removesuffix(".0")
        files.append(LogFile(name, LINES[start : start + size]))
        start += size
    return files


def test_rotation_keeps_the_chain() -> None:
    found = verify(rotated(10, 10, 10), seals((10, 20, 30), rotated=2), KEY.public_key(), "s")
    assert (found.whole, found.files) == (True, 3), found.faults


@pytest.mark.parametrize(
    ("gone", "what"),
    [(0, "the records before 11 are gone"), (1, "10 records are missing"), (2, "the log ends at record 20")],
)
def test_a_rotated_file_that_is_gone_is_found(gone: int, what: str) -> None:
    files = [file for index, file in enumerate(rotated(10, 10, 10)) if index != gone]
    found = verify(files, seals((5, 20, 30), rotated=2), KEY.public_key(), "s")
    assert what in found.faults[0].what


def test_the_oldest_file_may_have_been_rotated_out_and_is_missed_if_it_was_not() -> None:
    files = rotated(10, 10, 10)[1:]
    assert verify(files, seals((10, 20, 30), rotated=1), KEY.public_key(), "s").whole
    found = verify(files, seals((10, 20, 30), rotated=2), KEY.public_key(), "s")
    assert "1 of 3 files are gone" in found.faults[0].what


@pytest.mark.parametrize("count", [10, 20, 30])
def test_a_beginning_that_was_cut_off_at_a_seal_is_found(count: int) -> None:
    """That record's seal has the link to the first line that is left; but no file ended there."""
    assert (
        f"the records before {count + 1} are gone"
        in report(lines(40)[count:], seals((10, 20, 30, 40), lines(40))).faults[0].what
    )
    # The same in the oldest file of those that are left, behind the end of the last one that was rotated out.
    ends = seals((5,), rotated=3)
    for seq in (10, 20, COUNT):
        ends.append(_after(ends[-1], seq, 3))
    assert verify([LogFile("egress.jsonl", LINES[5:])], ends, KEY.public_key(), "s").faults[0].what.startswith("3 of 4")
    cut = verify([LogFile("egress.jsonl", LINES[10:])], ends, KEY.public_key(), "s")
    assert cut.faults[0].what == "the records before 11 are gone"


def _after(last: bytes, seq: int, rotated: int) -> bytes:
    head = chain.head(LINES[seq - 1])
    assert head is not None
    return Seal(f"2026-03-01T12:00:{seq:02}.500000Z", seq, head.chain, rotated, digest(last)).sign(KEY)


def test_an_archive_verifies_elsewhere(tmp_path: Path) -> None:
    log = tmp_path / "egress.jsonl"
    (tmp_path / "egress.jsonl.1").write_bytes(b"".join(line + b"\n" for line in LINES[:20]))
    log.write_bytes(b"".join(line + b"\n" for line in LINES[20:]))
    vouched = seals((10, 20, COUNT), rotated=1)
    assert verify_log(log, vouched, KEY.public_key()).whole
    archive = tmp_path / "lab.tar"
    with archive.open("wb") as file:
        export(file, "lab", log, vouched, KEY.public_key(), {"mode": "strict"}, b"certificate")
    found, key = verify_archive(archive)
    assert (found.whole, found.records, key) == (True, COUNT, KEY.public_key())
    with tarfile.open(archive) as tar:
        assert not [name for name in tar.getnames() if "ca-key" in name or "seal-key.pem" in name]


@pytest.mark.parametrize("garbage", [b"\0" * 3_000_000, b"x\n" * 10, b"\0" * 1_500_000 + b"\n", LINES[0][:40]])
def test_an_archive_has_what_is_broken_as_it_is(tmp_path: Path, garbage: bytes) -> None:
    """A log that somebody has spoilt is one to be looked at elsewhere: all but a line that is being written."""
    log, archive = tmp_path / "egress.jsonl", tmp_path / "lab.tar"
    whole = b"".join(line + b"\n" for line in LINES)
    (tmp_path / "egress.jsonl.1").write_bytes(garbage + b"\n" + whole[:100])
    log.write_bytes(whole + garbage)
    with archive.open("wb") as file:
        export(file, "lab", log, SEALS, KEY.public_key(), {"mode": "strict"}, b"certificate")
    torn = garbage == LINES[0][:40]
    with tarfile.open(archive) as tar:
        kept = {name: tar.extractfile(f"lab/{name}").read() for name in ("egress.jsonl", "egress.jsonl.1")}  # type: ignore[union-attr]
    assert kept == {"egress.jsonl": whole + (b"" if torn else garbage), "egress.jsonl.1": garbage + b"\n"}
    assert not verify_archive(archive)[0].whole


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty.tar"
    with tarfile.open(empty, "w") as tar:
        tar.addfile(tarfile.TarInfo("lab/egress.jsonl"), BytesIO())
    (tmp_path / "noise.tar").write_bytes(b"noise" * 1000)
    for name, kind in (("empty.tar", Malformed), ("noise.tar", Malformed), ("none.tar", HostError)):
        with pytest.raises(kind, match=name):
            verify_archive(tmp_path / name)


def test_a_seal_is_what_was_signed() -> None:
    seal = Seal("2026-03-01T12:00:00.000000Z", 5, "ab" * 32, 2, "cd" * 32)
    line = seal.sign(KEY)
    assert read_seal(line, KEY.public_key()) == seal
    for index in range(len(line)):
        with pytest.raises(Malformed):
            read_seal(line[:index] + bytes([line[index] ^ 1]) + line[index + 1 :], KEY.public_key())


def test_the_head_of_a_line_is_read_at_its_ends() -> None:
    head = chain.head(LINES[4])
    assert head is not None
    assert (head.ts, head.seq) == ("2026-03-01T12:00:05.000000Z", 5)
    assert chain.head(LINES[4][:-1]) is None
    assert chain.head(b"") is None
