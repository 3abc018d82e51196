"""The HTTP server on the unix socket: who may ask, what is where, how errors look."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from microagent.agent import attach, audits, doctoring, handlers, images, streams
from microagent.agent.fleet import Fleet
from microagent.agent.handlers import FLEET
from microagent.agent.peers import may_speak
from microagent.api import messages
from microagent.api.errors import STATUS, code_of, to_json
from microagent.errors import ApiError, MicroagentError, host_error

log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(fleet: Fleet, group: int | None) -> web.Application:
    """The agent's API."""
    app = web.Application(middlewares=[_errors, _peers(group)], client_max_size=messages.LARGEST_REQUEST)
    app[FLEET] = fleet
    app[streams.OF_ALL] = Counter()
    one = messages.workspace_path("{name}")
    app.add_routes(
        [
            web.get(messages.DESCRIPTION, handlers.description),
            web.get(messages.AGENT, handlers.about),
            web.get(messages.WORKSPACES, handlers.index),
            web.post(messages.WORKSPACES, handlers.create),
            web.get(one, handlers.show),
            web.delete(one, handlers.delete),
            web.post(f"{one}/start", handlers.start),
            web.get(f"{one}/setup", handlers.setup),
            web.post(f"{one}/stop", handlers.stop),
            web.post(f"{one}/kill", handlers.kill),
            web.get(f"{one}/policy", handlers.show_policy),
            web.post(f"{one}/policy", handlers.change_policy),
            web.get(f"{one}/audit", audits.verify),
            web.get(f"{one}/audit/export", audits.export),
            web.get(f"{one}/egress", streams.egress),
            web.get(f"{one}/logs", streams.logs),
            web.get(f"{one}/exec", attach.exec_),
            web.post(f"{one}/doctor", doctoring.examine),
            web.get(messages.IMAGES, images.index),
            web.delete(messages.IMAGES, images.remove),
            web.post(messages.PULL, images.pull),
            web.get(messages.EGRESS, streams.everything),
            web.get(messages.RUN, attach.run),
        ]
    )
    return app


def _peers(group: int | None) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: _Handler) -> web.StreamResponse:
        peer = request.get_extra_info("socket")
        if peer is None or not may_speak(peer, group):
            raise ApiError("forbidden", "you may not use this agent", "root and the group microagent may")
        return await handler(request)

    return check


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except MicroagentError as error:
        failure = error
    except web.HTTPException as error:
        failure = ApiError("not_found" if error.status == 404 else "invalid", f"{request.path}: {error.reason}")
    except ConnectionError:
        # The client left in the middle of an answer, as `head` does; there is nobody to tell.
        return web.Response()
    except OSError as error:
        failure = host_error(error)
    except Exception:
        log.exception("unexpected path=%s", request.path)
        failure = ApiError("internal", "the agent made a mistake", "its log has the details")
    if streams.BEGUN in request:
        log.error("cut off path=%s reason=%r", request.path, failure.what)
        if request.transport:
            request.transport.abort()
        begun: web.StreamResponse = request[streams.BEGUN]
        return begun
    return web.json_response(to_json(failure), status=STATUS.get(code_of(failure), 500))
