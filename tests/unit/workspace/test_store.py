"""The state directory: modes, atomicity, links, uids."""

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from microagent.audit import chain
from microagent.audit.record import Event, Record, body
from microagent.errors import ApiError, HostError
from microagent.workspace.spec import WorkspaceSpec
from microagent.workspace.states import State
from microagent.workspace.store import CERTIFICATE, EGRESS, FIRST_UID, KEY, RECORD, Store

NOW = "2026-01-02T03:04:05.000006Z"
CA = (b"certificate", b"key")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "state")
    yield made
    made.close()


def spec(name: str) -> WorkspaceSpec:
    return WorkspaceSpec(name, "base")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_stored_is_loaded(store: Store) -> None:
    record = store.create(spec("a"), CA, NOW)
    changed = store.save(replace(record, state=State.FAILED, reason="no", exit_code=3))
    assert store.load("a") == changed
    assert store.ca("a") == CA
    assert store.names() == ["a"]


def test_files_are_roots_alone(store: Store) -> None:
    store.create(spec("a"), CA, NOW)
    os.close(store.open_log("a", EGRESS))
    assert mode(store.path("a").parent.parent) == mode(store.path("a").parent) == mode(store.path("a")) == 0o700
    assert [mode(store.path("a", name)) for name in (KEY, RECORD, EGRESS, CERTIFICATE)] == [0o600, 0o600, 0o600, 0o644]


def test_a_taken_name_is_a_conflict(store: Store) -> None:
    store.create(spec("a"), CA, NOW)
    with pytest.raises(ApiError, match="exists already"):
        store.create(spec("a"), CA, NOW)
    assert store.names() == ["a"]


def test_uids_are_the_lowest_free_pair(store: Store) -> None:
    records = [store.create(spec(name), CA, NOW) for name in "abc"]
    assert [(r.mediator_uid, r.guest_uid) for r in records] == [
        (FIRST_UID, FIRST_UID + 1),
        (FIRST_UID + 2, FIRST_UID + 3),
        (FIRST_UID + 4, FIRST_UID + 5),
    ]
    assert store.remove("b")
    assert store.create(spec("d"), CA, NOW).mediator_uid == FIRST_UID + 2


def test_removing_what_is_not_there_is_fine(store: Store) -> None:
    assert not store.remove("a")
    store.create(spec("a"), CA, NOW)
    assert store.remove("a")
    assert not store.remove("a")
    with pytest.raises(ApiError, match="no workspace a"):
        store.load("a")


def test_half_made_and_half_deleted_workspaces_are_swept(tmp_path: Path) -> None:
    for name in (".new-a", ".gone-b"):
        (tmp_path / "workspaces" / name).mkdir(parents=True)
    tmp_path.chmod(0o700)
    store = Store(tmp_path)
    assert os.listdir(tmp_path / "workspaces") == store.names() == []  # noqa: PTH208  (hidden names matter here)
    store.close()


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "/etc"])
def test_no_path_is_made_of_a_name_that_is_none(store: Store, name: str) -> None:
    with pytest.raises(ApiError):
        store.path(name)
    with pytest.raises(ApiError):
        store.remove(name)


def test_links_are_not_followed(store: Store, tmp_path: Path) -> None:
    record = store.create(spec("a"), CA, NOW)
    target = tmp_path / "target"
    target.write_text("mine")
    for name in (RECORD, EGRESS):
        store.path("a", name).unlink(missing_ok=True)
        store.path("a", name).symlink_to(target)
    with pytest.raises(HostError):
        store.open_log("a", EGRESS)
    store.save(record)
    assert target.read_text() == "mine"
    store.path("b").symlink_to(store.path("a"))
    with pytest.raises(HostError):
        store.load("b")


def test_a_state_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    with pytest.raises(HostError, match="written by others"):
        Store(loose)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"v": 2}', b'{"v": 1, "spec": {}}'])
def test_a_damaged_record_harms_no_other_workspace(store: Store, damage: bytes) -> None:
    store.create(spec("a"), CA, NOW)
    store.path("a", RECORD).write_bytes(damage)
    with pytest.raises(HostError, match="is damaged"):
        store.load("a")
    assert store.create(spec("b"), CA, NOW).name == "b"
    assert store.remove("a")


def test_a_renewed_ca_is_stored_with_its_date(store: Store) -> None:
    record = store.create(spec("a"), CA, NOW)
    store.renew_ca(record, (b"new", b"newer"), "2026-02-02T00:00:00.000000Z")
    assert store.ca("a") == (b"new", b"newer")
    assert store.load("a").ca_made.startswith("2026-02")


def test_what_is_no_workspace_is_let_be_and_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "precious").mkdir(parents=True)
    (elsewhere / RECORD).write_text("{}")
    root = tmp_path / "state" / "workspaces"
    root.mkdir(parents=True, mode=0o755)
    (root / "lost+found").mkdir()
    (root / "empty").mkdir()
    (root / "file").write_text("")
    (root / "link").symlink_to(elsewhere)
    (root / ".new-link").symlink_to(elsewhere)
    (root / ".new-file").write_text("")
    (root / ".gone-a").mkdir()
    (root / ".gone-a" / "link").symlink_to(elsewhere)
    made = Store(tmp_path / "state")
    try:
        assert sorted(path.name for path in root.iterdir()) == ["empty", "file", "link", "lost+found"]
        assert made.names() == ["empty", "file", "link"]
        for name in made.names():
            with pytest.raises(HostError):
                made.load(name)
        assert made.create(spec("a"), CA, NOW).mediator_uid == FIRST_UID
        assert made.remove("link")
    finally:
        made.close()
    assert (elsewhere / "precious").is_dir()


def test_the_last_record_is_found_behind_what_was_never_finished(store: Store) -> None:
    """What stands at a log's end is what the next mediator goes on from, and what the agent seals."""
    store.create(spec("a"), CA, NOW)
    lines, link = [], chain.START
    for seq in (1, 2):
        text = body(Record(Event.GAP, {"why": "x"}), ts=NOW, seq=seq, ident="x", workspace="a")
        line, link = chain.link(link, text)
        lines.append(line)
    log, older = store.path("a", EGRESS), store.path("a", f"{EGRESS}.1")
    assert store.last_line("a", EGRESS) == b""
    for torn in (b"", lines[0][:40], lines[0][:40] + b"\n", b"\0" * 5000 + b"\n"):
        log.write_bytes(lines[0] + lines[1] + torn)
        assert store.last_line("a", EGRESS) == lines[1][:-1]
        log.rename(older)
        for new in (b"", torn):
            log.write_bytes(new)
            assert store.last_line("a", EGRESS) == lines[1][:-1]
