"""The rig of the TLS figures: guest — host — upstream, three namespaces joined by veth, nginx at the far end.

How this works: peers run in `host`, where the client's packets are redirected to them. Our guest is behind a
workspace's network as the agent builds it; only the tap is a veth, because a tap needs a program that moves frames,
and that program would be what is measured. Everything above the frames is the product: rules, tproxy, mediator,
records, chain.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self
from unittest.mock import patch

import dns.message
import dns.query
from pyroute2 import IPRoute
from tests.kernel.workspace import UID, Room

from microagent.agent.mediators import Nursery
from microagent.api.control import MediatorSettings
from microagent.api.limits import DEFAULT_LIMITS, Limits
from microagent.api.link import GATEWAY, GUEST, GUEST_MAC, TAP
from microagent.demo.authority import Authority
from microagent.demo.namespaces import Namespace
from microagent.host import links, netns, nft
from microagent.host.network import Network
from microagent.host.ruleset import Steering
from microagent.pki.ca import create_ca
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import entries_to_json, parse_entry

NAME: Final = "bench.test"
UPSTREAM: Final = "203.0.113.1"
HOST: Final = "203.0.113.2"
HOST_FOR_CLIENT: Final = "198.51.100.1"
CLIENT: Final = "198.51.100.2"
BULK: Final = 1 << 30
_TTL: Final = 3600

_NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {directory}/requests.log;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
    sendfile on;
    keepalive_requests 10000000;
    server {{
        listen {upstream}:443 ssl backlog=4096;
        ssl_certificate {directory}/server.pem;
        ssl_certificate_key {directory}/server.pem;
        ssl_protocols TLSv1.3;
        root {directory}/www;
    }}
}}
"""


class Rig:
    """The three namespaces and nginx; a context manager."""

    def __init__(self) -> None:
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._build(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _build(self, undo: ExitStack) -> None:
        # In memory: the disk is not what is measured.
        self.directory = Path(tempfile.mkdtemp(prefix="microagent-bench-", dir="/dev/shm"))
        undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.directory.chmod(0o755)
        self.far, self.host, self.client = Namespace(), Namespace(), Namespace()
        for namespace in (self.far, self.host, self.client):
            undo.callback(namespace.close)
        self.host.run(lambda: _wire("up0", HOST, "wire0", self.far.descriptor))
        self.far.run(lambda: _addressed("wire0", UPSTREAM, HOST))
        self.host.run(lambda: _wire("client0", HOST_FOR_CLIENT, "eth0", self.client.descriptor))
        self.client.run(lambda: _addressed("eth0", CLIENT, HOST_FOR_CLIENT))
        self.host.run(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        self._serve(undo)
        self._names(undo)

    def _serve(self, undo: ExitStack) -> None:
        authority = Authority.create()
        self.ca = self.directory / "ca.pem"
        self.ca.write_bytes(authority.certificate_pem)
        self.server_pem = self.directory / "server.pem"
        self.server_pem.write_bytes(authority.server_pem((NAME,)))
        www = self.directory / "www"
        www.mkdir()
        (www / "index.html").write_text("hello\n")
        block = os.urandom(1 << 20)
        with (www / "bulk").open("wb") as file:
            for _ in range(BULK >> 20):
                file.write(block)
        self.bulk_hash = hashlib.sha256(block * 64).hexdigest()
        (www / "hashed").write_bytes(block * 64)
        config = self.directory / "nginx.conf"
        config.write_text(_NGINX.format(directory=self.directory, upstream=UPSTREAM))
        self.start(undo, self.far, "nginx", "-p", str(self.directory), "-c", str(config))
        self.wait(self.far, UPSTREAM, 443)

    def _names(self, undo: ExitStack) -> None:
        """The one name there is, for dnsmasq at the far end and for clients that do not ask each time."""
        self.hosts = self.directory / "hosts"
        self.hosts.write_text(f"{UPSTREAM} {NAME}\n")
        record = f"--address=/{NAME}/{UPSTREAM}", f"--local-ttl={_TTL}"
        self.start(
            undo, self.far, "dnsmasq", "-k", "-R", "-h", "-C", "/dev/null", *record, "-a", UPSTREAM, "--user=root"
        )

    def start(self, undo: ExitStack, where: Namespace, *command: str) -> "subprocess.Popen[bytes]":
        """A program that is ended with `undo`; its words go to a file of its name."""
        with (self.directory / f"{Path(command[0]).name}.log").open("ab") as log:
            process = subprocess.Popen(where.argv(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        undo.callback(_end, process)
        return process

    def run(self, where: Namespace, *command: str, hosts: bool = True, seconds: float = 120) -> str:
        """A program's output. CalledProcessError when it fails."""
        if hosts:
            command = (
                "unshare",
                "-m",
                "sh",
                "-c",
                f'mount --bind {self.hosts} /etc/hosts && exec "$@"',
                "sh",
                *command,
            )
        done = subprocess.run(where.argv(*command), capture_output=True, text=True, timeout=seconds, check=True)
        return done.stdout

    def wait(self, where: Namespace, address: str, port: int) -> None:
        """Until something listens there."""
        probe = f"exec 3<>/dev/tcp/{address}/{port}"
        deadline = time.monotonic() + 30
        while subprocess.run(where.argv("bash", "-c", probe), stderr=subprocess.DEVNULL, check=False).returncode:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens on {address}:{port}")
            time.sleep(0.1)


class Guest:
    """A workspace of ours on the rig, its guest's namespace, and its log; a context manager."""

    def __init__(
        self,
        rig: Rig,
        allow: Sequence[str] = (),
        passthrough: Sequence[str] = (),
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._rig = rig
        self._limits = limits
        self._undo = ExitStack()
        entries = [parse_entry(Verb.ALLOW, text, "") for text in allow]
        entries += [parse_entry(Verb.PASSTHROUGH, text, "") for text in passthrough]
        self._policy = Policy(tuple(entries))

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._build(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def counters(self) -> dict[str, tuple[int, int]]:
        """What its rules have counted."""
        return netns.run_inside(self._netns, nft.counters)

    def _build(self, undo: ExitStack) -> None:
        rig = self._rig
        directory = Path(tempfile.mkdtemp(dir=rig.directory))
        self.namespace = Namespace()
        undo.callback(self.namespace.close)
        self.log = directory / "egress.jsonl"
        log_fd = os.open(self.log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, log_fd)
        certificate, key = create_ca("bench", datetime.now(UTC))
        room = Room(rig)  # type: ignore[arg-type]  # it only wants `host`
        undo.callback(room.close)
        nursery = room.call(Nursery.start((rig.ca.read_text(),)))
        undo.callback(lambda: room.call(nursery.close()))
        steering = Steering.from_policy(Mode.STRICT, self._policy)
        with patch.object(links, "make_tap", lambda: veth_for_tap(self.namespace.descriptor)):
            self._netns = directory / "netns" / "bench"
            undo.callback(netns.release_directory, self._netns.parent)
            network = rig.host.run(lambda: Network.create(self._netns, steering))
        undo.callback(network.remove)
        settings = MediatorSettings(
            workspace="bench",
            mode="strict",
            entries=tuple(entries_to_json(self._policy.entries)),
            ca_cert=certificate.decode(),
            ca_key=key.decode(),
            resolvers=(UPSTREAM,),
            limits=self._limits,
            uid=UID,
        )
        sockets = network.mediator_sockets()
        mediator = room.call(nursery.spawn(settings, sockets, log_fd, directory, network))
        undo.callback(lambda: room.call(mediator.stop()))
        self.pid = mediator.pid
        network.raise_tap()
        self.namespace.run(guest_card)
        # Every client asks where its server is; those of the figures do so once, as they would with a pool.
        self.namespace.run(lambda: dns.query.udp(dns.message.make_query(NAME, "A"), str(GATEWAY.ip), timeout=10))


def guest_card() -> None:
    with IPRoute() as ip:
        card = ip.link_lookup(ifname="eth0")[0]
        ip.link("set", index=card, address=GUEST_MAC)
        ip.addr("add", index=card, address=str(GUEST.ip), prefixlen=GUEST.network.prefixlen)
        ip.link("set", index=card, state="up")
        ip.route("add", dst="0.0.0.0/0", gateway=str(GATEWAY.ip))


def veth_for_tap(guest: int) -> int:
    with IPRoute() as ip:
        ip.link("add", ifname=TAP, kind="veth", peer={"ifname": "eth0", "net_ns_fd": guest})
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def _wire(ours: str, address: str, theirs: str, namespace: int) -> None:
    with IPRoute() as ip:
        ip.link("add", ifname=ours, kind="veth", peer={"ifname": theirs, "net_ns_fd": namespace})
    _addressed(ours, address, "")


def _addressed(name: str, address: str, gateway: str) -> None:
    with IPRoute() as ip:
        index = ip.link_lookup(ifname=name)[0]
        ip.addr("add", index=index, address=address, prefixlen=24)
        ip.link("set", index=index, state="up")
        if gateway:
            ip.route("add", dst="0.0.0.0/0", gateway=gateway)


def _end(process: "subprocess.Popen[Any]") -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
