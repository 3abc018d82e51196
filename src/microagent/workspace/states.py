"""The life of a workspace, in one table.

created ──start──▶ starting ──up──▶ running ──stop / over──▶ stopping ──down──▶ stopped ──start──▶ …
                       └── stop ──────────────────────────────▲
starting, running, stopping ──fail──▶ failed ──start──▶ …
"""

from enum import StrEnum

from microagent.errors import ApiError


class State(StrEnum):
    """Where a workspace is. Only `starting`, `running` and `stopping` have processes."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Event(StrEnum):
    """What moves it: two wishes of the user (start, stop), four facts."""

    START = "start"
    STOP = "stop"
    UP = "up"
    OVER = "over"
    DOWN = "down"
    FAIL = "fail"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.CREATED: {Event.START: State.STARTING},
    State.STARTING: {Event.UP: State.RUNNING, Event.STOP: State.STOPPING, Event.FAIL: State.FAILED},
    State.RUNNING: {Event.STOP: State.STOPPING, Event.OVER: State.STOPPING, Event.FAIL: State.FAILED},
    State.STOPPING: {Event.DOWN: State.STOPPED, Event.FAIL: State.FAILED},
    State.STOPPED: {Event.START: State.STARTING},
    State.FAILED: {Event.START: State.STARTING},
}

LIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING})

_HINTS = {
    (State.RUNNING, Event.START): "it runs already; `microagent stop` it first to start it anew",
    (State.STARTING, Event.START): "another command starts it at this moment",
    (State.STOPPING, Event.START): "try again when it has stopped",
    (State.STOPPING, Event.STOP): "another command stops it at this moment",
    (State.CREATED, Event.STOP): "it was never started",
    (State.STOPPED, Event.STOP): "nothing of it runs",
    (State.FAILED, Event.STOP): "nothing of it runs; `microagent status` says why it failed",
}


def after(state: State, event: Event) -> State:
    """The state that follows; ApiError `conflict` when the table has none (`busy` while it is stopping)."""
    following = TRANSITIONS[state].get(event)
    if following is None:
        code = "busy" if state is State.STOPPING else "conflict"
        raise ApiError(code, f"cannot {event} a workspace that is {state}", _HINTS.get((state, event), ""))
    return following
