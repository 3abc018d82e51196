"""One start, in readiness order: image, network, mediator, tap, guest. Whatever fails, the rest is undone in reverse.

The order is the enforcement: the tap goes up only when rules, sockets and a mediator that says it is ready are there,
and the guest starts only on a tap that is up. A start that cannot enforce does not start.
"""

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network

from microagent.agent.config import Config
from microagent.agent.keeper import Keeper
from microagent.agent.leftovers import clear
from microagent.agent.mediators import Mediator
from microagent.agent.output import Output, Sink
from microagent.agent.resolv_conf import read_resolv_conf
from microagent.agent.sealer import Sealer
from microagent.agent.services import Services, netns_directory, sockets_directory
from microagent.agent.undo import acquire, cancelled
from microagent.api.control import MediatorSettings
from microagent.api.link import GUEST_MAC
from microagent.audit.record import timestamp
from microagent.errors import ApiError, HostError, Malformed
from microagent.guests.bootdisk import make_bootdisk
from microagent.guests.disk import make_overlay
from microagent.guests.guest import Stillborn
from microagent.guests.image import Image
from microagent.guests.qemu import Guest, GuestSpec, start_guest
from microagent.host.cgroup import Bounds
from microagent.host.links import host_addresses
from microagent.host.network import Network
from microagent.host.ruleset import Steering
from microagent.pki.ca import Issuer, create_ca
from microagent.policy.model import Mode
from microagent.policy.parse import entries_to_json
from microagent.workspace.egress import Egress
from microagent.workspace.files import ensure_directory
from microagent.workspace.record import Record
from microagent.workspace.spec import WorkspaceSpec
from microagent.workspace.store import EGRESS, OVERLAY

log = logging.getLogger(__name__)

# Certificates last 30 days and are renewed at start (contract 7.6); younger ones are kept, since guests trust them.
_CA_AGE = timedelta(days=15)
# QEMU itself, its buffers, and a gigabyte of translated code when it emulates.
_QEMU_MIB = 1536
# An emulated guest whose machine is busy may get a timer of no use (vm_fixtures/init), rarely, and hardly twice.
_BOOTS = 4
# CPUs, and up to 64 workers that wait for the disk.
_QEMU_THREADS = 512
# 1024 connections with half a megabyte waiting each way; it is one thread, and never forks.
_MEDIATOR = Bounds(memory_mib=1536, processes=8, cpus=1)


@dataclass
class Life:
    """A workspace that runs: everything here ends when the stack that `bring_up` was given unwinds.

    `argv` is its command, `code` how that ended where the guest itself does not say it: on a terminal.
    """

    record: Record
    network: Network
    keeper: Keeper
    guest: Guest
    output: Output
    pumping: asyncio.Task[None]
    argv: tuple[str, ...] = ()
    code: int | None = None


async def bring_up(services: Services, record: Record, sink: Sink | None, undo: AsyncExitStack) -> Life:
    """Starts the workspace; HostError or OSError when this machine cannot.

    Where the record says that its command is on a terminal, the guest idles, for somebody to start that (`argv`).
    """
    image = _image(services, record)
    record = services.store.save(_renewed(services, record))
    overlay = services.store.path(record.name, OVERLAY)
    if not overlay.exists():
        await make_overlay(overlay, record.spec.disk_mib)

    network, keeper = await build(services, record, undo)
    argv = argv_of(record.spec, image)
    spec = _guest_spec(services, record, image, argv, network)
    for left in reversed(range(_BOOTS)):
        guest = await acquire(undo, start_guest(spec), end_guest)
        life = await attend(services, record, network, keeper, guest, sink, undo)
        try:
            await _ready(guest)
            break
        except Stillborn:
            if not left:
                raise
            log.warning("workspace=%s its guest ended before it began, it is started again", record.name)
    network.close_tap()
    life.argv = tuple(argv)
    return life


async def build(services: Services, record: Record, undo: AsyncExitStack) -> tuple[Network, Keeper]:
    """All that a guest needs to be let in: its network, mediated, with the tap up."""
    services.ledger.note(record.name)
    undo.push_async_callback(asyncio.to_thread, clear, services, record.name)
    place = sockets_directory(services.config) / record.name
    ensure_directory(place, 0o700)
    bound(services, record)
    network = await _network(services, record, undo)
    keeper = await keep_mediated(services, record, network, undo)
    services.ledger.note(record.name, mediator=keeper.mediator.pid)
    await asyncio.to_thread(network.raise_tap)
    return network, keeper


async def attend(
    services: Services,
    record: Record,
    network: Network,
    keeper: Keeper,
    guest: Guest,
    sink: Sink | None,
    undo: AsyncExitStack,
) -> Life:
    """Notes who runs, and reads the guest's output from now on."""

    def note() -> None:
        services.ledger.note(record.name, mediator=keeper.mediator.pid, guest=guest.pid)

    if services.cgroups:
        services.cgroups.enter(record.name, "guest", guest.pid)
    note()
    keeper.replaced = note
    output = Output(services.store, record.name, sink)
    pumping = asyncio.create_task(output.pump(guest.output))
    undo.push_async_callback(_finished, guest, output, pumping)
    return Life(record, network, keeper, guest, output, pumping)


async def _network(services: Services, record: Record, undo: AsyncExitStack) -> Network:
    steering = await asyncio.to_thread(steering_of, services.config, record.spec.egress)
    making = asyncio.to_thread(Network.create, netns_directory(services.config) / record.name, steering)
    return await acquire(undo, making, lambda network: asyncio.to_thread(network.remove))


async def keep_mediated(
    services: Services, record: Record, network: Network, undo: AsyncExitStack, running: Mediator | None = None
) -> Keeper:
    """A keeper for the mediator that is `running`, or for a new one."""
    place = sockets_directory(services.config) / record.name
    log_fd = services.store.open_log(record.name, EGRESS)
    undo.callback(lambda: os.close(log_fd))

    def switched(fd: int) -> None:
        nonlocal log_fd
        os.close(log_fd)
        log_fd = fd

    async def spawn() -> Mediator:
        # The policy may have changed since the start: the store has the one of now.
        now = await asyncio.to_thread(services.store.load, record.name)
        settings = await asyncio.to_thread(settings_of, services, now)
        if os.fstat(log_fd).st_size == 0:
            before = await asyncio.to_thread(services.store.last_line, record.name, f"{EGRESS}.1")
            settings = replace(settings, log_before=before.decode())
        sockets = await asyncio.to_thread(network.mediator_sockets)
        mediator = await services.mediators.spawn(settings, sockets, log_fd, place, network)
        if services.cgroups:
            services.cgroups.enter(record.name, "mediator", mediator.pid)
        return mediator

    if running is None:
        running = await acquire(undo, spawn(), Mediator.stop)
    keeper = Keeper(record.name, network, running, services.rounds, spawn)
    sealer = Sealer(services.rounds, services.store, services.seals, record.name, switched)
    # Its last seal is made after the mediator's last word.
    undo.push_async_callback(cancelled, asyncio.create_task(sealer.keep_sealed(keeper)))
    # By then it may be another one than this one.
    undo.push_async_callback(lambda: keeper.mediator.stop())
    return keeper


def bound(services: Services, record: Record) -> None:
    """Makes the groups in which the workspace's processes are bounded, where this machine has such."""
    if services.cgroups:
        guest = Bounds(record.spec.memory_mib + _QEMU_MIB, _QEMU_THREADS, record.spec.cpus)
        services.cgroups.create(record.name, {"guest": guest, "mediator": _MEDIATOR})


def steering_of(config: Config, egress: Egress) -> Steering:
    """What the kernel decides for a workspace with this policy, on the host as it is now."""
    host = [IPv4Network(address) for address in host_addresses() if ":" not in address]
    private = [network for network in config.private if isinstance(network, IPv4Network)]
    return Steering.from_policy(egress.mode, egress.policy, private, host)


def settings_of(services: Services, record: Record, changed_by: str = "") -> MediatorSettings:
    """What a workspace's mediator is told, on the host as it is now."""
    certificate, key = services.store.ca(record.name)
    egress, now = record.spec.egress, datetime.now(UTC)
    egress = egress.without_grants({grant for grant in egress.grants if grant.until <= now})
    return MediatorSettings(
        workspace=record.name,
        mode=egress.mode.value,
        entries=tuple(entries_to_json(egress.policy.entries)),
        ends=tuple((grant.until - now).total_seconds() for grant in egress.grants),
        ca_cert=certificate.decode("ascii"),
        ca_key=key.decode("ascii"),
        resolvers=_resolvers(services.config),
        search=record.search,
        host_addresses=tuple(sorted(host_addresses())),
        private=tuple(str(network) for network in services.config.private),
        own_endpoints=own_endpoints(services.config),
        uid=record.mediator_uid,
        changed_by=changed_by,
        upstream_ca=record.spec.upstream_ca,
        limits=services.config.limits,
    )


def _resolvers(config: Config) -> tuple[str, ...]:
    """Nobody while resolv.conf names nobody, as on a host that is offline.

    Policies must be changed, mediators replaced and taken over all the same.
    """
    try:
        return read_resolv_conf(config.resolv_conf).resolvers
    except HostError:
        return ()


def own_endpoints(config: Config) -> tuple[str, ...]:
    """Addresses and ports of this host that are the agent's own."""
    return (config.metrics,) if config.metrics and not config.metrics.startswith("/") else ()


def argv_of(spec: WorkspaceSpec, image: Image) -> list[str]:
    """The workspace's command, empty when its guest idles."""
    return [*spec.entrypoint, *spec.command] if spec.entrypoint else image.config.argv(list(spec.command))


def _guest_spec(services: Services, record: Record, image: Image, argv: list[str], network: Network) -> GuestSpec:
    spec, config = record.spec, services.config
    mediated = spec.egress.mode is not Mode.OFF
    try:
        bootdisk = make_bootdisk(
            command=[] if record.on_terminal else argv,
            env=dict(spec.env),
            workdir=image.config.workdir,
            # A name may end in a hyphen, a host name may not (RFC 952).
            hostname=record.name.rstrip("-"),
            ca_pem=services.store.ca(record.name)[0] if mediated else b"",
            resolv_conf=replace(read_resolv_conf(config.resolv_conf), search=record.search).for_guest(),
            image_env=image.config.env,
            user=image.config.user,
            setup=spec.setup,
        )
    except Malformed as error:
        raise ApiError("invalid", error.what, error.hint) from error
    return GuestSpec(
        kernel=config.guest_dir / "vmlinux",
        initramfs=config.guest_dir / "initramfs",
        rootfs=image.rootfs,
        overlay=services.store.path(record.name, OVERLAY),
        bootdisk=bootdisk,
        tap_fd=network.tap,
        mac=GUEST_MAC,
        memory_mib=spec.memory_mib,
        cpus=spec.cpus,
        uid=record.guest_uid,
        gid=record.guest_uid,
        directory=services.store.path(record.name),
        sockets=sockets_directory(config) / record.name,
    )


def _image(services: Services, record: Record) -> Image:
    """The image it was made from, whatever its name may mean by now: what it wrote lies over that one."""
    if record.digest is None:
        what = f"workspace {record.name} was made by a version that did not note its image"
        raise HostError(what, f"microagent delete {record.name}, and create it anew")
    return services.images.stored(record.spec.image, record.digest)


def _renewed(services: Services, record: Record) -> Record:
    now = datetime.now(UTC)
    # One of the future was made while the clock was wrong, and no guest of now would trust it.
    age = now - datetime.fromisoformat(record.ca_made)
    if timedelta(0) <= age < _CA_AGE and _is_whole(services, record.name):
        return record
    return services.store.renew_ca(record, create_ca(record.name, now), timestamp(now))


def _is_whole(services: Services, name: str) -> bool:
    """Whether its CA can sign; one that cannot is made anew, like an old one: the guest learns of it at its start."""
    try:
        Issuer(*services.store.ca(name))
    except (FileNotFoundError, ValueError, TypeError) as error:
        log.warning("CA damaged, made anew workspace=%s reason=%r", name, str(error))
        return False
    return True


async def _ready(guest: Guest) -> None:
    """Waits until the guest's command starts; HostError when it never will."""
    ready, ended = asyncio.create_task(guest.ready.wait()), asyncio.create_task(guest.wait())
    try:
        await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await ended
    finally:
        ready.cancel()
        ended.cancel()


async def end_guest(guest: Guest) -> None:
    """Ends a guest whose time is over, whatever it says, and waits until it is gone."""
    guest.kill()
    try:
        await guest.wait()
    except HostError:
        return


async def _finished(guest: Guest, output: Output, pumping: asyncio.Task[None]) -> None:
    """Ends the guest while its output is still being read: it waits until all of it was."""
    output.detach()
    await end_guest(guest)
    await pumping
