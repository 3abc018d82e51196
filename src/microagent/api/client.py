"""The client's side of the API: one method a kind of answer, errors as ApiError.

A socket that is not there, or that nobody listens on, is `NoAgent`, so that the CLI may start one.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from microagent.api.errors import from_json
from microagent.errors import ApiError

# Starting a workspace may first build its image; only the way to the socket has a limit.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5)
# A host name for HTTP's sake; the connector ignores it.
_BASE = "http://agent"


class NoAgent(ApiError):  # noqa: N818  (it is the absence that callers ask for)
    """Nobody answers on the socket."""

    def __init__(self, socket: Path) -> None:
        super().__init__("no_agent", f"no agent answers on {socket}", "start one as root: microagent agent")


class Client:
    """A connection to the agent, for the length of an `async with`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> "Client":
        connector = aiohttp.UnixConnector(str(self._socket))
        self._session = aiohttp.ClientSession(_BASE, connector=connector, timeout=_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None) -> Any:
        """The JSON of the answer."""
        async with self._request(method, path, json=body, params=query) as answer:
            found = await _json_or_nothing(answer)
            if found is None:
                raise self._stranger()
            return found

    @asynccontextmanager
    async def lines(
        self, path: str, query: Mapping[str, str], method: str = "GET", body: object = None
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The objects of an NDJSON answer as they come, within the block; a last line with an `error` is raised."""
        async with self._request(method, path, json=body, params=query) as answer:
            yield _objects(answer)

    @asynccontextmanager
    async def chunks(self, path: str, query: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a streamed answer as they come, within the block."""
        async with self._request("GET", path, params=query) as answer:
            yield aiter(answer.content.iter_any())

    @asynccontextmanager
    async def websocket(self, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A websocket, closed at the end of the block."""
        try:
            async with self._session.ws_connect(path, max_msg_size=0, heartbeat=None) as socket:
                yield socket
        except aiohttp.WSServerHandshakeError as error:
            raise ApiError("forbidden", f"the agent refused the connection ({error.status})") from error
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error) from error

    @asynccontextmanager
    async def _request(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, path, **options) as answer:
                if answer.status >= 400:
                    raise from_json(await _json_or_nothing(answer))
                yield answer
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error) from error
        except aiohttp.ClientResponseError as error:
            raise self._stranger() from error
        except aiohttp.ClientError as error:
            raise ApiError("internal", f"the agent went away: {error}", "see its log") from error

    def _stranger(self) -> ApiError:
        return ApiError(
            "internal", f"what answers on {self._socket} is not microagent's agent", "--socket names another"
        )

    def _unreachable(self, error: aiohttp.ClientConnectorError) -> ApiError:
        if isinstance(error.os_error, PermissionError):
            hint = "run it as root, or join the group microagent (usermod -aG microagent NAME, as root) and log in anew"
            return ApiError("forbidden", f"you may not use the agent on {self._socket}", hint)
        return NoAgent(self._socket)


async def _objects(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.content:
        record = json.loads(line)
        if "error" in record and "event" not in record:
            raise from_json(record)
        yield record


async def _json_or_nothing(answer: aiohttp.ClientResponse) -> object:
    try:
        return await answer.json()
    except (aiohttp.ContentTypeError, ValueError):
        return None


def call(socket: Path, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None) -> Any:
    """`Client.call` for code that does not await."""

    async def once() -> Any:
        async with Client(socket) as client:
            return await client.call(method, path, body, query)

    return asyncio.run(once())
