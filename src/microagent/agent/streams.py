"""Answers that go on while a workspace runs: its egress records, and its logs."""

import asyncio
import heapq
import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from aiohttp import web

from microagent.agent.handlers import FLEET, in_turn, named
from microagent.agent.peers import uid_of
from microagent.agent.supervisor import Supervisor
from microagent.audit.logfile import open_log
from microagent.audit.reader import Filter, filter_from_query
from microagent.audit.tail import Tail
from microagent.errors import ApiError
from microagent.workspace.store import CONSOLE, EGRESS, OUTPUT

# How often a followed file is looked at: fast enough to look live, and a few microseconds of work each time.
_LOOK = 0.1
# At once, by one user: each has a file of every workspace open, and a machine may have hundreds.
_MOST_OF_ALL = 16
# Records written to the client at once.
_BATCH = 256
_CHUNK = 64 * 1024
# Digits; more records than this nobody has.
_LONGEST_LIMIT = 9
# The answer of a request that has begun: what fails from then on can only be cut off.
BEGUN = "begun"

# How many answers about all workspaces go on, by user.
OF_ALL: web.AppKey["Counter[int]"] = web.AppKey("of all", Counter)

_SOURCES = {"output": OUTPUT, "console": CONSOLE}


async def egress(request: web.Request) -> web.StreamResponse:
    """Records as NDJSON: `?follow=1&denied=1&event=…&host=…&since=10m&limit=N&id=…&flow=…`."""
    supervisor = named(request)
    wanted, limit, follow = _asked(request)
    with Tail(request.app[FLEET].services.store.path(supervisor.record.name, EGRESS)) as tail:
        answer = await _begin(request, "application/x-ndjson")
        going = _going_on(request, supervisor) if follow else False
        await _write(request, answer, tail.past(wanted, limit))
        while going:
            going = await _pause(request, supervisor)
            await _write(request, answer, tail.records(wanted))
    return answer


async def everything(request: web.Request) -> web.StreamResponse:
    """The same of all workspaces, by time, also of those made later; to be followed until the client leaves."""
    fleet = request.app[FLEET]
    wanted, limit, follow = _asked(request)
    tails: dict[Supervisor, Tail] = {}
    with ExitStack() as stack:
        stack.enter_context(_one_of_few(request))
        answer = await _begin(request, "application/x-ndjson")
        past = True
        while past or (follow and not _gone(request)):
            here = fleet.all()
            for supervisor in here:
                if supervisor not in tails:
                    path = fleet.services.store.path(supervisor.record.name, EGRESS)
                    tails[supervisor] = stack.enter_context(Tail(path))
            each = [
                _of(supervisor.record.name, tail.past(wanted, limit) if past else tail.records(wanted))
                for supervisor, tail in tails.items()
            ]
            merged = heapq.merge(*each, key=lambda record: str(record.get("ts", "")))
            await _write(request, answer, _last(merged, limit) if past else merged)
            past = False
            # What it wrote last has just been read.
            for supervisor in tails.keys() - set(here):
                tails.pop(supervisor).close()
            if follow:
                await asyncio.sleep(_LOOK)
    return answer


@contextmanager
def _one_of_few(request: web.Request) -> Iterator[None]:
    """One of a user's answers about all workspaces; ApiError `busy` when there are as many as may be."""
    of_all, uid = request.app[OF_ALL], uid_of(request.get_extra_info("socket"))
    if of_all[uid] >= _MOST_OF_ALL:
        raise ApiError("busy", f"you read the records of all workspaces {_MOST_OF_ALL} times already", "end some")
    of_all[uid] += 1
    try:
        yield
    finally:
        of_all[uid] -= 1


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
            with open_log(path) as log:
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
    request[BEGUN] = answer
    return answer


async def _write(request: web.Request, answer: web.StreamResponse, records: Iterator[dict[str, Any]]) -> None:
    """In a thread, since a filter may pass over a gigabyte before it finds anything."""
    while lines := await in_turn(request, lambda: [json.dumps(record) for record in islice(records, _BATCH)]):
        await answer.write("".join(f"{line}\n" for line in lines).encode())


def _asked(request: web.Request) -> tuple[Filter, int | None, bool]:
    wanted = filter_from_query(request.query, datetime.now(UTC))
    return wanted, _limit(request.query), request.query.get("follow") == "1"


def _of(workspace: str, records: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records, each with the name it was found under: what is no record of ours says nothing."""
    return ({**record, "workspace": workspace} for record in records)


def _last(records: Iterator[dict[str, Any]], limit: int | None) -> Iterator[dict[str, Any]]:
    yield from records if limit is None else deque(records, maxlen=limit)


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _going_on(request: web.Request, supervisor: Supervisor) -> bool:
    return supervisor.live and not _gone(request)


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
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_LIMIT):
        raise ApiError("invalid", f"limit is not a number of {_LONGEST_LIMIT} digits at most")
    return int(text)
