"""The agent's process: one a state directory, from its lock to its last workspace stopped, or let go."""

import asyncio
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

from aiohttp import web

from microagent import __version__
from microagent.agent.config import Config, load
from microagent.agent.door import keep_door
from microagent.agent.fleet import Fleet
from microagent.agent.forwarding import forwarding
from microagent.agent.ledger import Ledger
from microagent.agent.log_lines import log_to_stderr
from microagent.agent.metrics_server import serving_metrics
from microagent.agent.outbox import Outbox
from microagent.agent.peers import group_id, listen
from microagent.agent.rounds import Rounds
from microagent.agent.seals import Seals
from microagent.agent.server import application
from microagent.agent.services import Services, netns_directory, sockets_directory
from microagent.agent.spawner import Spawner
from microagent.agent.surroundings import keep_told
from microagent.agent.sweep import sweep
from microagent.agent.undo import cancelled
from microagent.errors import ApiError, HostError
from microagent.guests.image import ImageStore
from microagent.host.cgroup import Cgroups
from microagent.host.netns import release_directory
from microagent.pki.roots import parse_roots
from microagent.workspace.files import ensure_directory, open_directory
from microagent.workspace.store import Store

log = logging.getLogger(__name__)

# Connections that still stream when everything is stopped are cut after this many seconds.
_LAST_WORDS = 1.0


def main(config_file: Path | None = None, *, as_json: bool = False) -> None:
    """Runs until SIGTERM, which leaves workspaces running for the next agent, or SIGINT, which stops them.

    `as_json`: its log is one object a line. HostError when it cannot start; PolicyError, or ApiError `invalid`, for a
    wrong configuration.
    """
    if os.geteuid() != 0:
        raise HostError("the agent needs root", "sudo microagent agent")
    log_to_stderr(as_json=as_json)
    config = load(config_file)
    os.umask(0o077)
    # As doctor looks for programs: su(1) and cron(8) leave a PATH without mke2fs.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    # Some twenty for each workspace: the 1024 of a login shell would be fifty workspaces.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ensure_directory(config.state_dir, 0o700)
    # Members of the group must reach the socket, and nothing else in here is theirs to read.
    ensure_directory(config.run_dir, 0o711)
    os.close(open_directory(config.run_dir))
    ensure_directory(sockets_directory(config), 0o700)
    if sys.version_info < (3, 12):
        # Python 3.12 has it by itself: no thread for each program that waits for it to end.
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    # A full collection stops everybody: it looks only at what comes from now on, and not at all that was loaded.
    gc.freeze()
    with _alone(config.state_dir), _alone(config.run_dir):
        asyncio.run(_serve(config))


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Holds the directory's lock; ApiError `conflict` when another agent does."""
    fd = os.open(directory / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(fd, 20).decode("ascii", "replace").strip()
        what = f"another agent (pid {holder}) runs on {directory}"
        raise ApiError("conflict", what, "there is one agent a state directory; use that one, or stop it") from error
    try:
        os.truncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(fd)


async def _serve(config: Config) -> None:
    told: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.put_nowait, number)
    async with _fleet(config) as fleet, AsyncExitStack() as last:
        group = group_id()
        runner = web.AppRunner(application(fleet, group), shutdown_timeout=_LAST_WORDS)
        await runner.setup()
        last.push_async_callback(runner.cleanup)
        sock = listen(config.socket, group)
        last.callback(config.socket.unlink, missing_ok=True)
        assert runner.server is not None  # noqa: S101  (setup made it)
        last.callback(sock.close)
        last.push_async_callback(cancelled, asyncio.create_task(keep_door(sock, runner.server)))
        await last.enter_async_context(serving_metrics(fleet, config, group))
        await last.enter_async_context(forwarding(fleet))
        watching = asyncio.create_task(keep_told(fleet))
        last.callback(watching.cancel)
        _notify_ready()
        log.info("ready version=%s pid=%d socket=%s", __version__, os.getpid(), config.socket)
        stop = await told.get() == signal.SIGINT
        log.info("going down, workspaces are %s", "stopped" if stop else "left running")
        await fleet.close(stop=stop)


@asynccontextmanager
async def _fleet(config: Config) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        store = Store(config.state_dir)
        stack.callback(store.close)
        ledger = Ledger(config.run_dir)
        stack.callback(ledger.close)
        stack.callback(_tidy, netns_directory(config))
        seals = Seals(config.state_dir)
        stack.callback(seals.close)
        mediators = await stack.enter_async_context(Spawner.started(_pem_texts(config.upstream_ca)))
        outbox = Outbox(config)
        rounds = await stack.enter_async_context(Rounds.going())
        images = ImageStore(config.state_dir / "images", config.guest_dir / "images", config.images)
        await asyncio.to_thread(images.sweep)
        services = Services(config, store, ledger, mediators, images, _cgroups(config, stack), seals, outbox, rounds)
        fleet = Fleet(services, await asyncio.to_thread(sweep, services))
        # Once more after the server has gone: a request may have started one while the others were stopped.
        stack.push_async_callback(partial(fleet.close, stop=False))
        await fleet.adopt()
        yield fleet


def _notify_ready() -> None:
    """Tell systemd, if it is systemd that started us (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.connect(address.replace("@", "\0", 1))
            line.send(b"READY=1")


def _cgroups(config: Config, stack: AsyncExitStack) -> Cgroups | None:
    """Without them a workspace is bounded by QEMU's memory and CPUs, and by the mediator's limits."""
    # Agents with other directories are other agents.
    other = "" if config.run_dir == Config().run_dir else f"-{sha256(str(config.run_dir).encode()).hexdigest()[:8]}"
    try:
        cgroups = Cgroups.open(f"microagent{other}")
    except (HostError, OSError) as error:
        log.warning("workspaces run without cgroups reason=%r", str(error))
        return None
    stack.callback(cgroups.close)
    return cgroups


def _tidy(directory: Path) -> None:
    """Undo the mount over the directory of namespaces, when none is left in it."""
    if directory.exists() and not any(directory.iterdir()):
        release_directory(directory)


def _pem_texts(files: tuple[Path, ...]) -> tuple[str, ...]:
    """The certificates in the files of `upstream_ca`. The mediators' parent would only end over what is none."""
    hint = "list files of PEM certificates"
    found = []
    for file in files:
        try:
            found.append(parse_roots(file.read_text("utf-8")))
        except OSError as error:
            raise ApiError("invalid", f"upstream_ca: cannot read {file}: {error.strerror}", hint) from error
        except UnicodeDecodeError as error:
            raise ApiError("invalid", f"upstream_ca: {file}: not PEM certificates", hint) from error
        except ValueError as error:
            raise ApiError("invalid", f"upstream_ca: {file}: {error}", hint) from error
    return tuple(found)
