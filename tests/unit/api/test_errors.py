"""Errors cross the socket unchanged."""

import pytest

from microagent.api.errors import STATUS, code_of, from_json, to_json
from microagent.errors import ApiError, HostError, Malformed, MicroagentError, PolicyError, Problem


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiError("busy", "wait"), "busy"),
        (PolicyError((Problem("wrong"),)), "invalid"),
        (HostError("no tun", "modprobe tun"), "host"),
        (Malformed("bytes"), "internal"),
    ],
)
def test_a_code_for_every_kind(error: MicroagentError, code: str) -> None:
    assert code_of(error) == code
    assert code in STATUS
    back = from_json(to_json(error))
    assert (back.code, back.what, back.hint) == (code, error.what, error.hint)


@pytest.mark.parametrize("body", [None, [], {}, {"error": "no"}, "text"])
def test_an_answer_of_another_shape_is_an_error_itself(body: object) -> None:
    assert from_json(body).code == "internal"
