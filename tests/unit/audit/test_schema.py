"""The table of events, and what is made from it."""

import json

import pytest
from jsonschema import Draft202012Validator
from tests.house.record_pages import SCHEMA, pages
from tests.records import violations

from microagent.audit import chain
from microagent.audit.record import Event, Record, body
from microagent.audit.schema import ANYWHERE, COMMON, EVENTS, FIELDS

IDENT = "0123456789ab"


def line(event: Event, **fields: object) -> bytes:
    unlinked = body(Record(event, fields), ts="2026-01-02T03:04:05.000006Z", seq=1, ident=IDENT, workspace="w")
    return chain.link(chain.START, unlinked)[0].removesuffix(b"\n")


def test_every_event_has_its_shape_and_every_field_its_place() -> None:
    assert set(EVENTS) == set(Event)
    named = {name for shape in EVENTS.values() for name in shape.fields}
    assert named - ANYWHERE.keys() == set(FIELDS)
    assert not named & COMMON.keys()


def test_the_pages_are_what_the_source_says() -> None:
    for path, text in pages().items():
        assert path.read_text("utf-8") == text, f"{path} is not current: make pages"


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(json.loads(SCHEMA.read_text("utf-8")))


def test_a_record_fits_one_event_of_the_whole_schema() -> None:
    whole = Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    good = line(Event.GAP, why="x", torn=True)
    assert violations([good]) == []
    assert not list(whole.iter_errors(json.loads(good)))
    assert list(whole.iter_errors({**json.loads(good), "event": "egress_open"}))


@pytest.mark.parametrize(
    "wrong",
    [
        line(Event.GAP),
        line(Event.GAP, why="x", torn=1),
        line(Event.GAP, why="x", authorization="Bearer"),
        line(Event.MEDIATOR_DOWN, why="x", signal="denied,unheard-of"),
        line(Event.MEDIATOR_DOWN, why="x", reason="because"),
        line(Event.UDP_CLOSE, dst="192.0.2.1:None"),
        line(Event.UDP_DENY, proto="udp", aggregated=True),
        line(Event.UDP_DENY, proto="tcp", aggregated=True, count=2),
        line(Event.DROP, what="icmp", packets=0, first="now", last="now"),
    ],
)
def test_what_the_schema_refuses(wrong: bytes) -> None:
    assert violations([wrong]) != []


def test_a_line_that_was_never_finished_is_no_record() -> None:
    assert violations([line(Event.GAP)[:-1], b""]) == []
