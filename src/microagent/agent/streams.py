"""Answers that go on while a workspace runs: its egress records, and its logs."""

import asyncio
import json
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from microagent.agent.handlers import FLEET, named
from microagent.agent.supervisor import Supervisor
from microagent.audit.reader import Filter, Tail, filter_from_query
from microagent.errors import ApiError
from microagent.workspace.store import CONSOLE, EGRESS, OUTPUT

# How often a followed file is looked at: fast enough to look live, and a few microseconds of work each time.
_LOOK = 0.1
# Records written to the client at once: the loop is not held for longer than a millisecond or so.
_BATCH = 256
_CHUNK = 64 * 1024

_SOURCES = {"output": OUTPUT, "console": CONSOLE}


async def egress(request: web.Request) -> web.StreamResponse:
    """Records as NDJSON: `?follow=1&denied=1&event=…&host=…&since=10m&limit=N&id=…`."""
    supervisor = named(request)
    wanted = filter_from_query(request.query, datetime.now(UTC))
    limit = _limit(request.query)
    follow = request.query.get("follow") == "1"
    path = request.app[FLEET].services.store.path(supervisor.record.name, EGRESS)
    with Tail(path) as tail:
        answer = await _begin(request, "application/x-ndjson")
        going = _going_on(request, supervisor) if follow else False
        past = _matching(tail, wanted)
        await _write(answer, iter(deque(past, maxlen=limit)) if limit is not None else past)
        while going:
            going = await _pause(request, supervisor)
            await _write(answer, _matching(tail, wanted))
    return answer


async def logs(request: web.Request) -> web.StreamResponse:
    """The bytes of output.log or console.log: `?source=output|console&follow=1`."""
    supervisor = named(request)
    file = _SOURCES.get(request.query.get("source", "output"))
    if file is None:
        raise ApiError("invalid", "source is neither output nor console")
    going = request.query.get("follow") == "1" and _going_on(request, supervisor)
    path = request.app[FLEET].services.store.path(supervisor.record.name, file)
    answer = await _begin(request, "application/octet-stream")
    position = 0
    while True:
        if path.exists():
            with path.open("rb") as log:
                # A log that became shorter was put aside, and this is a new one.
                log.seek(position if position <= path.stat().st_size else 0)
                while chunk := log.read(_CHUNK):
                    await answer.write(chunk)
                position = log.tell()
        if not going:
            break
        going = await _pause(request, supervisor)
    return answer


async def _begin(request: web.Request, content_type: str) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": content_type})
    await answer.prepare(request)
    return answer


async def _write(answer: web.StreamResponse, records: Iterator[dict[str, Any]]) -> None:
    lines: list[str] = []
    for record in records:
        lines.append(json.dumps(record))
        if len(lines) == _BATCH:
            await answer.write("".join(f"{line}\n" for line in lines).encode())
            lines.clear()
    if lines:
        await answer.write("".join(f"{line}\n" for line in lines).encode())


def _matching(tail: Tail, wanted: Filter) -> Iterator[dict[str, Any]]:
    return (record for record in tail.records() if wanted(record))


def _going_on(request: web.Request, supervisor: Supervisor) -> bool:
    return supervisor.live and request.transport is not None and not request.transport.is_closing()


async def _pause(request: web.Request, supervisor: Supervisor) -> bool:
    """Waits a moment, less when the workspace ends; whether there will be more after this look."""
    try:
        await asyncio.wait_for(supervisor.ended(), _LOOK)
    except TimeoutError:
        return _going_on(request, supervisor)
    return False


def _limit(query: Mapping[str, str]) -> int | None:
    text = query.get("limit")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ApiError("invalid", "limit is not a number")
    return int(text)
