"""`audit verify` and `audit export`: the log of a workspace, against the seals."""

import tempfile
from dataclasses import asdict
from typing import Any

from aiohttp import web

from microagent.agent.handlers import FLEET, in_turn, named
from microagent.audit.archive import export as write_archive
from microagent.audit.archive import verify_log
from microagent.audit.seal import fingerprint
from microagent.audit.verify import Report
from microagent.workspace.store import EGRESS

_CHUNK = 1 << 20


async def verify(request: web.Request) -> web.Response:
    """What is in the log, and all that is wrong with it."""
    services = request.app[FLEET].services
    supervisor = named(request)
    name, ended = supervisor.record.name, not supervisor.live

    def work() -> Report:
        # The seals first: what is written meanwhile is then only newer than they are.
        seals = services.seals.lines(name)
        return verify_log(services.store.path(name, EGRESS), seals, services.seals.public_key, ended=ended)

    report = await in_turn(request, work)
    return web.json_response(report_json(report, fingerprint(services.seals.public_key)))


async def export(request: web.Request) -> web.StreamResponse:
    """The archive, a tar."""
    services = request.app[FLEET].services
    supervisor = named(request)
    name = supervisor.record.name
    with tempfile.TemporaryFile(dir=services.config.state_dir) as archive:

        def work() -> None:
            seals, key = services.seals.lines(name), services.seals.public_key
            log, policy = services.store.path(name, EGRESS), supervisor.egress.to_json()
            write_archive(archive, name, log, seals, key, policy, services.store.ca(name)[0])
            archive.seek(0)

        await in_turn(request, work)
        answer = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        await answer.prepare(request)
        while data := await in_turn(request, lambda: archive.read(_CHUNK)):
            await answer.write(data)
    await answer.write_eof()
    return answer


def report_json(report: Report, key: str) -> dict[str, Any]:
    """A report as the API gives it; `key` is the fingerprint of the key that the seals were checked with."""
    return {"whole": report.whole, **asdict(report), "key": key}
