"""The one table of the lifecycle."""

import pytest

from microagent.errors import ApiError
from microagent.workspace.states import LIVE, TRANSITIONS, Event, State, after


def test_the_ordinary_life() -> None:
    state = State.CREATED
    for event, expected in (
        (Event.START, State.STARTING),
        (Event.UP, State.RUNNING),
        (Event.OVER, State.STOPPING),
        (Event.DOWN, State.STOPPED),
        (Event.START, State.STARTING),
        (Event.FAIL, State.FAILED),
        (Event.START, State.STARTING),
        (Event.STOP, State.STOPPING),
    ):
        state = after(state, event)
        assert state is expected


def test_every_state_has_a_row_and_can_be_reached() -> None:
    reached = {State.CREATED} | {state for row in TRANSITIONS.values() for state in row.values()}
    assert set(TRANSITIONS) == reached == set(State)


@pytest.mark.parametrize("state", LIVE)
def test_what_lives_can_fail(state: State) -> None:
    assert after(state, Event.FAIL) is State.FAILED


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_everything_else_is_refused(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        return
    with pytest.raises(ApiError) as caught:
        after(state, event)
    assert caught.value.code == ("busy" if state is State.STOPPING else "conflict")
