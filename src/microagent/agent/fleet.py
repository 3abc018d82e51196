"""All workspaces of this host: found at start, made, deleted, and let go or stopped when the agent goes down."""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime

from microagent.agent.bringup import argv_of
from microagent.agent.services import Services
from microagent.agent.supervisor import Supervisor
from microagent.audit.record import timestamp
from microagent.errors import ApiError, HostError
from microagent.guests.caller import Caller
from microagent.pki.ca import create_ca
from microagent.workspace.record import Record
from microagent.workspace.spec import WorkspaceSpec

log = logging.getLogger(__name__)


class Fleet:
    """Supervisors by workspace name."""

    def __init__(self, services: Services, records: list[Record]) -> None:
        self.services = services
        self._closing = False
        self._all = {record.name: Supervisor(services, record, self._over) for record in records}

    def all(self) -> list[Supervisor]:
        """Every workspace, by name."""
        return [self._all[name] for name in sorted(self._all)]

    def get(self, name: str) -> Supervisor:
        """The workspace; ApiError `not_found`, or HostError when its files are damaged."""
        if name not in self._all:
            self.services.store.load(name)
            raise HostError(f"workspace {name} was not there when the agent started", "restart the agent")
        return self._all[name]

    async def create(
        self, spec: WorkspaceSpec, caller: Caller, *, make: bool = True, commanded: bool = False
    ) -> Supervisor:
        """Makes a workspace, with its image at hand and a CA of its own.

        `caller` must be able to read an image that is a file; with `make` false one that is not at hand is an error,
        and with `commanded` a guest that would idle.
        """
        self.check_new(spec)
        image = await self.services.images.resolve(spec.image, caller, make=make)
        if commanded and not argv_of(spec, image):
            raise ApiError(
                "invalid", f"the image {spec.image} has no command of its own", "microagent run IMAGE COMMAND"
            )
        # That may have taken long.
        self.check_new(spec)
        now = datetime.now(UTC)
        record = self.services.store.create(spec, create_ca(spec.name, now), timestamp(now), image.digest)
        log.info("workspace=%s state=created image=%s", spec.name, image.digest)
        supervisor = self._all[spec.name] = Supervisor(self.services, record, self._over)
        return supervisor

    def users_of(self, digest: str) -> list[str]:
        """The workspaces that were made from an image, by name."""
        return [supervisor.record.name for supervisor in self.all() if supervisor.record.digest == digest]

    def check_new(self, spec: WorkspaceSpec) -> None:
        """ApiError when a workspace of that name cannot be made now."""
        if self._closing:
            raise ApiError("busy", "the agent is going down", "try again in a moment")
        if spec.name in self.services.store.names():
            hint = f"choose another name, or `microagent delete {spec.name}`"
            raise ApiError("conflict", f"workspace {spec.name} exists already", hint)

    async def delete(self, name: str, *, force: bool) -> bool:
        """Removes a workspace and its files; False when there was none. A running one only with `force`."""
        supervisor = self._all.get(name)
        # One that somebody starts again while it ends is ended again.
        while supervisor and supervisor.live:
            if not force:
                hint = f"`microagent stop {name}` first, or delete it with --force"
                raise ApiError("conflict", f"workspace {name} is {supervisor.record.state}", hint)
            await supervisor.kill()
        self._all.pop(name, None)
        removed = self._remove(name)
        return removed or supervisor is not None

    async def adopt(self) -> None:
        """Takes over all that an earlier agent left running."""
        await asyncio.gather(*(supervisor.adopt() for supervisor in self.all() if supervisor.live))

    async def close(self, *, stop: bool) -> None:
        """Ends all that this agent does; no new workspaces are made from now on.

        With `stop` every workspace is stopped, all at once, each within its grace period. Without, those that run are
        left to the next agent, and only those that are just starting or stopping are ended.
        """
        self._closing = True
        live = [supervisor for supervisor in self.all() if supervisor.live]
        if not stop:
            await asyncio.gather(*(supervisor.release() for supervisor in live))
        await asyncio.gather(*(self._stop(supervisor) for supervisor in live if not supervisor.released))

    async def _stop(self, supervisor: Supervisor) -> None:
        # One that is stopping already only needs waiting for.
        with contextlib.suppress(ApiError):
            await supervisor.stop()
        await supervisor.ended()

    def _over(self, supervisor: Supervisor) -> None:
        """An ephemeral workspace goes with its run, whoever started it and whether they are still there."""
        if supervisor.record.spec.ephemeral:
            self._all.pop(supervisor.record.name, None)
            self._remove(supervisor.record.name)
            log.info("workspace=%s state=deleted", supervisor.record.name)

    def _remove(self, name: str) -> bool:
        """Its files; False when there were none. What is still to be sent of its log stays."""
        services = self.services
        services.outbox.keep(name, services.store.path(name))
        removed = services.store.remove(name)
        services.seals.remove(name)
        return removed
