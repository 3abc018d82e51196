"""The lifecycle of one workspace.

How this works: one task is one life, from start to the last thing undone. Wishes (stop, kill) only nudge that task
and wait for it; the table in workspace.states says which wish fits when. So there is one place where things end,
however they end: the guest's command is over, it was stopped, the mediator could not be kept, the agent goes down.
Only a life that is released ends here without ending there: guest and mediator go on, for the next agent.
"""

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from microagent.agent.bringup import Life, bring_up
from microagent.agent.change import apply_egress
from microagent.agent.grants import Deadlines
from microagent.agent.output import Sink
from microagent.agent.resolv_conf import read_resolv_conf
from microagent.agent.services import Services
from microagent.agent.summary import Summary, denied
from microagent.agent.takeover import GuestGone, take_over
from microagent.audit.record import timestamp
from microagent.errors import ApiError, HostError, MicroagentError, host_error
from microagent.workspace.egress import Egress, Grant
from microagent.workspace.record import Record
from microagent.workspace.spec import WorkspaceSpec
from microagent.workspace.states import LIVE, Event, State, after
from microagent.workspace.store import EGRESS

if TYPE_CHECKING:
    from microagent.api.messages import Denied

log = logging.getLogger(__name__)

# How long a guest may take to shut down when asked (contract: then it is ended, and the answer says so).
GRACE = 10
# The RuntimeError that Python makes of clone(2) refusing.
_NO_THREAD = "can't start new thread"
# Seconds between the moment in which a process closes its descriptors and the one in which it is gone, at the most.
_TAP_BEFORE_END = 2.0


class SetupFailed(ApiError):  # noqa: N818  (like GuestGone, the name is the fact)
    """A command of its set-up failed, so that the workspace's own command never began."""


class Supervisor:
    """One workspace. `over` is told when a life has ended and everything of it is undone.

    `failure` is why the last life failed, if it did.
    """

    def __init__(self, services: Services, record: Record, over: Callable[["Supervisor"], None]) -> None:
        self.record = record
        self.life: Life | None = None
        self.denied: Denied = {"count": 0, "hosts": []}
        self._deadlines = Deadlines()
        self.summary = Summary(services.store.path(record.name, EGRESS))
        self._services = services
        self._over = over
        self._task: asyncio.Task[None] | None = None
        self.failure: MicroagentError | None = None
        self.released = False
        self._changing = asyncio.Lock()

    @property
    def live(self) -> bool:
        """Whether it has, or is about to have, processes."""
        return self.record.state in LIVE

    async def start(self, sink: Sink | None = None, *, on_terminal: bool = False) -> Life:
        """Starts it and returns when the guest runs. The reason why it does not is raised.

        With `on_terminal` the guest idles: the caller runs its command (`Life.argv`) and says how it ended (`finish`).
        """
        search = read_resolv_conf(self._services.config.resolv_conf).search
        spec = self._spec_of_now()
        facts = {"started": _now(), "spec": spec, "on_terminal": on_terminal, "search": search}
        self._enter(Event.START, reason="", exit_code=None, **facts)
        return await self._begin(lambda undo: bring_up(self._services, self.record, sink, undo))

    @property
    def setting_up(self) -> bool:
        """Whether its set-up goes on, so that its command has not begun."""
        return bool(self.life and self.record.spec.setup and not self.life.guest.began.is_set())

    async def adopt(self) -> None:
        """Takes over what an earlier agent left running; what cannot be is ended, and the record says why."""
        with contextlib.suppress(MicroagentError):
            await self._begin(lambda undo: take_over(self._services, self.record, undo))

    async def release(self) -> None:
        """Lets go of a workspace that runs, so that this agent may end; returns when nothing of it is read any more.

        One whose command is on a terminal stays, since that goes with this agent.
        """
        if self.record.on_terminal:
            return
        if self._task and self.life and self.record.state is State.RUNNING:
            self.released = True
            self._task.cancel()
            await self.ended()

    async def _begin(self, begin: Callable[[AsyncExitStack], Awaitable[Life]]) -> Life:
        self.failure = None
        ready: asyncio.Future[Life] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready, begin), name=f"workspace {self.record.name}")
        self._task.add_done_callback(lambda _: ready.cancel())
        await asyncio.wait([ready])
        if not ready.cancelled():
            return ready.result()
        raise self.failure or ApiError("conflict", f"workspace {self.record.name} was stopped while it started")

    async def stop(self) -> bool:
        """Asks the guest to shut down; True when it had to be ended after the grace period."""
        life, forced = self.life, False
        self._enter(Event.STOP, reason="stopped")
        if life is None:
            await self._cancel()
        else:
            forced = await _shut_down(life)
        await self.ended()
        if forced and not self.record.spec.ephemeral:
            self._note(reason=f"did not shut down within {GRACE} s and was ended")
        return forced

    async def finish(self, code: int) -> None:
        """Ends a guest whose command was on a terminal and ended with `code`; returns when nothing of it runs."""
        if self.life:
            self.life.code = code
            await self.life.guest.shutdown(0)
        await self.ended()

    async def kill(self) -> None:
        """Ends it at once; fine when it has ended already. One that was released is nobody's to end here."""
        if self.released:
            return
        if self.record.state in (State.STARTING, State.RUNNING):
            starting = self.record.state is State.STARTING
            self._enter(Event.STOP, reason="killed")
            if starting:
                await self._cancel()
        if self.life:
            self.life.guest.kill()
            self.life.output.detach()
        await self.ended()

    @property
    def egress(self) -> Egress:
        """Mode and policy as they are now, without the grants that have ended."""
        return self._spec_of_now().egress

    async def change_egress(self, change: Callable[[Egress], Egress], who: str) -> bool:
        """Changes the policy, at once where it runs; False when that changes nothing. What `change` raises is raised.

        ApiError `busy` while it starts or stops. On any error the policy is what it was.
        """
        async with self._changing:
            if self.record.state in (State.STARTING, State.STOPPING):
                raise ApiError("busy", f"workspace {self.record.name} is {self.record.state}", "try again in a moment")
            before = self.record.spec.egress
            after = change(self.egress)
            if after == before:
                return False

            def store() -> Record:
                record = replace(self.record, spec=replace(self.record.spec, egress=after))
                self.record = self._services.store.save(record)
                return record

            if self.life is None:
                store()
            else:
                await apply_egress(self._services, self.life, before, after, who, store)
            # The time of a new grant runs from now on.
            self._ended_grants()
            log.info("workspace=%s policy=%s who=%s", self.record.name, after.policy.digest, who)
            return True

    async def refresh(self) -> None:
        """Has a running workspace decide by the host's addresses and resolvers of now."""
        async with self._changing:
            if self.life is None:
                return
            egress = self.record.spec.egress
            try:
                await apply_egress(self._services, self.life, egress, egress, "", lambda: self.record)
            except (HostError, OSError) as error:
                log.error("not refreshed workspace=%s reason=%r", self.record.name, str(error))

    async def ended(self) -> None:
        """Waits until a life that is going on is over and undone."""
        if self._task:
            await asyncio.wait([self._task])

    async def _live(self, ready: "asyncio.Future[Life]", begin: Callable[[AsyncExitStack], Awaitable[Life]]) -> None:
        try:
            async with AsyncExitStack() as undo:
                life = await begin(undo)
                self.record, self.life = replace(life.record, state=self.record.state), life
                if self.record.state is State.STARTING:
                    self._enter(Event.UP)
                ready.set_result(life)
                try:
                    code = await self._until_over(life)
                except asyncio.CancelledError:
                    if self.released:
                        undo.pop_all()
                        await _let_go(life)
                    raise
                self._finished(life, code)
            self._enter(Event.DOWN)
        except asyncio.CancelledError:
            if not self.released:
                self._enter(Event.DOWN)
        except GuestGone as error:
            self.failure = error
            self._enter(Event.OVER, reason=error.what)
            self._enter(Event.DOWN)
        except (MicroagentError, OSError) as error:
            self._fail(error if isinstance(error, MicroagentError) else host_error(error))
        except Exception as error:
            if str(error) == _NO_THREAD:
                self._fail(host_error(OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))))
            else:
                log.exception("unexpected workspace=%s", self.record.name)
                self._fail(HostError("the agent made a mistake; its log has the details"))
        finally:
            self.life = None
            if not self.released:
                self._seal()
                await self._sum_up()
                self._over(self)

    def _finished(self, life: Life, code: int | None) -> None:
        """Notes how it ended; SetupFailed when that was before its command."""
        self._note(exit_code=code)
        if self.record.state is not State.RUNNING:
            return
        if life.guest.unprepared:
            hint = f"`microagent logs {self.record.name}` has all that it said; the next start begins it anew"
            raise SetupFailed("failed", f"its set-up failed with {code}", hint)
        self._enter(Event.OVER, reason=f"the command ended with {code}")

    async def _until_over(self, life: Life) -> int | None:
        """The guest's exit code; None when it was ended on purpose. HostError when it or its mediator failed."""
        keeping = asyncio.create_task(life.keeper.keep())
        waiting = asyncio.create_task(life.guest.wait())
        ending = asyncio.create_task(self._end_grants())
        try:
            await asyncio.wait([keeping, waiting], return_when=asyncio.FIRST_COMPLETED)
            # A guest that ends takes its tap along, and may be heard of after that.
            if not waiting.done() and not await life.guest.gone_within(_TAP_BEFORE_END):
                keeping.result()
            code = await waiting
            await life.pumping
            return code if life.code is None else life.code
        except HostError:
            if self.record.state is State.STOPPING:
                return None
            raise
        finally:
            for task in (keeping, waiting, ending):
                task.cancel()
            await asyncio.wait([keeping, waiting, ending])

    def _seal(self) -> None:
        """Vouch for the last word, whoever wrote it: that nothing came after it can be seen from now on."""
        services, name = self._services, self.record.name
        with contextlib.suppress(MicroagentError, OSError):
            services.seals.seal(name, services.store.last_line(name, EGRESS))

    async def _end_grants(self) -> None:
        """Takes grants out of the running policy as they end."""
        while True:
            # A timer would not notice a clock that was set.
            await self._services.rounds.until(self._grant_ended)
            try:
                await self.change_egress(lambda egress: egress, "the end of a grant")
            except (MicroagentError, OSError) as error:
                log.error("grant not ended workspace=%s reason=%r", self.record.name, str(error))

    def _grant_ended(self) -> bool:
        return bool(self._ended_grants())

    def _ended_grants(self) -> frozenset[Grant]:
        return self._deadlines.ended(self.record.spec.egress.grants, datetime.now(UTC), time.monotonic())

    def _spec_of_now(self) -> WorkspaceSpec:
        spec = self.record.spec
        return replace(spec, egress=spec.egress.without_grants(self._ended_grants()))

    async def _sum_up(self) -> None:
        path = self._services.store.path(self.record.name, EGRESS)
        with contextlib.suppress(OSError):
            self.denied = await asyncio.to_thread(denied, path, self.record.started or "")

    async def _cancel(self) -> None:
        """Ends a start. A task cancelled before its first step would never reach its own clean-up, so it gets one."""
        await asyncio.sleep(0)
        if self._task:
            self._task.cancel()

    def _fail(self, error: MicroagentError) -> None:
        self.failure = error
        log.error("failed workspace=%s reason=%r", self.record.name, error.what)
        self._enter(Event.FAIL, reason=error.what)

    def _enter(self, event: Event, **changes: object) -> None:
        state = after(self.record.state, event)
        log.info("workspace=%s state=%s", self.record.name, state)
        self._note(state=state, **changes)

    def _note(self, **changes: object) -> None:
        """The new facts count even when the disk is full: processes must be ended all the same."""
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        try:
            self._services.store.save(self.record)
        except (HostError, OSError) as error:
            log.error("not saved workspace=%s reason=%r", self.record.name, str(error))


async def _let_go(life: Life) -> None:
    """What was read of its output is logged; the rest waits in the guest."""
    life.output.detach()
    await life.guest.abandon()
    await life.pumping


async def _shut_down(life: Life) -> bool:
    """Asks the guest to end; True when it took the whole grace period, after which its init ends the command."""
    loop = asyncio.get_running_loop()
    asked = loop.time()
    patience = loop.call_later(GRACE, life.output.detach)
    await life.guest.shutdown(GRACE)
    patience.cancel()
    return loop.time() - asked >= GRACE


def _now() -> str:
    return timestamp(datetime.now(UTC))
