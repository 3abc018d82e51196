"""Messages survive any chunking, and descriptors arrive with the message they were sent with."""

import json
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microagent.api.control import MAX_MESSAGE, Assembler, MediatorSettings, encode, receive, send
from microagent.api.limits import Limits


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=5), st.integers(1, 7))
def test_messages_come_out_of_any_chunks(messages: list[dict[str, int]], size: int) -> None:
    stream = b"".join(encode(dict(message)) for message in messages)
    assembler = Assembler()
    found = [m for at in range(0, len(stream), size) for m in assembler.feed(stream[at : at + size])]
    assert found == messages


def test_descriptors_ride_along() -> None:
    left, right = socket.socketpair()
    reading, writing = os.pipe()
    with left, right:
        send(left, {"spawn": 1}, (writing,))
        os.close(writing)
        received = receive(right)
        assert received is not None
        message, descriptors = received
        assert message == {"spawn": 1}
        os.write(descriptors[0], b"x")
        assert os.read(reading, 1) == b"x"
        os.close(descriptors[0])
        left.shutdown(socket.SHUT_WR)
        assert receive(right) is None
    os.close(reading)


def test_a_length_out_of_bounds_ends_the_line() -> None:
    with pytest.raises(ConnectionError):
        Assembler().feed((MAX_MESSAGE + 1).to_bytes(4, "big"))


def test_settings_come_back_as_they_were() -> None:
    settings = MediatorSettings(
        workspace="w",
        mode="strict",
        entries=({"verb": "allow", "entry": "a.test", "origin": "x"},),
        ca_cert="c",
        ca_key="k",
        resolvers=("203.0.113.53",),
        ends=(9.5,),
        search=("corp.test",),
        limits=Limits(connections=7),
    )
    assert MediatorSettings.from_message(settings.to_message()) == settings
    assert MediatorSettings.from_message(json.loads(encode(settings.to_message())[4:])) == settings
    with pytest.raises(TypeError):
        MediatorSettings.from_message({"workspace": "w", "unknown": 1})
