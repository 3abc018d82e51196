"""The made-up internet: two network namespaces joined by one wire.

How this works: `host` is where the agent and its mediators run. Its only uplink is a veth (198.51.100.2/24,
default via 198.51.100.1), and it has no route to the machine's own network. The far namespace takes every
address there is for its own, so that whatever is sent to anywhere, a metadata address or a private one too,
arrives, is captured, and is answered by a server of `world` or by the canary.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast

from pyroute2 import IPRoute

import microagent
from microagent.demo import world
from microagent.demo.authority import Authority
from microagent.demo.capture import Capture, Flow
from microagent.demo.namespaces import Namespace
from microagent.errors import HostError
from microagent.host import nft

if TYPE_CHECKING:
    from collections.abc import Callable

UPLINK = "uplink0"
_WIRE = "wire0"
_REPORT_TIMEOUT = 15.0  # seconds; a report is milliseconds, but a busy machine with two cores is not an error


@dataclass(frozen=True, slots=True)
class Query:
    """A question that reached the DNS server; `name` in lower case without the final dot."""

    name: str
    kind: str
    transport: str


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request that reached a web server at `address`; `host` and `path` as they were sent."""

    scheme: str
    host: str
    method: str
    path: str
    address: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something that reached the canary; a connection is one sighting without bytes, then one per read."""

    proto: str
    dst: str
    port: int
    src: str
    sport: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that arrived since the internet began, in order of arrival; `lost` packets escaped the capture."""

    queries: tuple[Query, ...]
    requests: tuple[Request, ...]
    canary: tuple[Sighting, ...]
    banners: tuple[tuple[str, bytes], ...]
    flows: dict[Flow, int]
    lost: int


class Internet:
    """A running made-up internet; a context manager. It ends with this process, however that ends."""

    def __init__(self, zone: world.Zone = world.ZONE) -> None:
        """Raises HostError where namespaces cannot be made."""
        self._undo: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        try:
            self._build(zone)
        except BaseException:
            self.close()
            raise

    def _build(self, zone: world.Zone) -> None:
        self.host = Namespace()
        self._undo.append(self.host.close)
        self.far = Namespace()
        self._undo.append(self.far.close)
        self.host.run(lambda: _plumb_host(self.far.descriptor))
        self.far.run(_plumb_far)
        self.capture = Capture(self.far, _WIRE)
        self._undo.append(self.capture.close)

        self.directory = directory = Path(tempfile.mkdtemp(prefix="microagent-internet-"))
        self.authority = Authority.create()
        self.ca = directory / "ca.pem"  # what has to be trusted to trust this internet
        self.ca.write_bytes(self.authority.certificate_pem)
        self.resolv_conf = directory / "resolv.conf"
        self.resolv_conf.write_text(f"nameserver {world.RESOLVER}\n", "utf-8")
        (directory / "zone.json").write_text(json.dumps(zone), "utf-8")
        for site in world.SITES:
            signer = self.authority if site.trusted else Authority.create("Nobody You Trust")
            (directory / f"{site.address}.pem").write_bytes(signer.server_pem(site.names))

        # A session of its own: the terminal's Ctrl-C is for us, and we end the servers last.
        self._servers = subprocess.Popen(
            self.far.argv(sys.executable, "-m", "microagent.demo.servers", str(directory)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=python_environment(),
        )
        self._undo.append(self._end_servers)
        self._read_line()

    def evidence(self) -> Evidence:
        """What has arrived up to now."""
        with self._lock:
            cast(IO[bytes], self._servers.stdin).write(b"report\n")
            report = json.loads(self._read_line())
        return Evidence(
            queries=tuple(Query(*item) for item in report["queries"]),
            requests=tuple(Request(*item) for item in report["requests"]),
            canary=tuple(
                Sighting(proto, dst, port, src, sport, bytes.fromhex(data))
                for proto, dst, port, src, sport, data in report["canary"]
            ),
            banners=tuple((where, bytes.fromhex(data)) for where, data in report["banners"]),
            flows=self.capture.flows(),
            lost=self.capture.lost(),
        )

    def far_argv(self, *command: str) -> list[str]:
        """The argument vector that starts `command` among the servers; `directory` has a PEM file for each site."""
        return self.far.argv(*command)

    def close(self) -> None:
        """End everything; idempotent."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_servers(self) -> None:
        cast(IO[bytes], self._servers.stdin).close()  # they remove their directory and go
        try:
            self._servers.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._servers.kill()
            self._servers.wait()
        cast(IO[bytes], self._servers.stdout).close()

    def _read_line(self) -> bytes:
        output = cast(IO[bytes], self._servers.stdout)
        line = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(_REPORT_TIMEOUT):
                    raise HostError("the made-up internet does not answer")
                piece = output.read(1 << 20)
                if not piece:
                    raise HostError("the made-up internet's servers have died")
                line += piece
        return bytes(line)


def python_environment() -> dict[str, str]:
    """The environment in which another Python finds this very package, installed or not."""
    source = str(Path(microagent.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": source}


def _plumb_host(far: int) -> None:
    with IPRoute() as kernel:
        kernel.link("add", ifname=UPLINK, kind="veth", peer={"ifname": _WIRE, "net_ns_fd": far})
        index = kernel.link_lookup(ifname=UPLINK)[0]
        _address(kernel, index, world.HOST, world.PREFIX)
        _address(kernel, index, world.HOST_V6, world.PREFIX_V6)
        kernel.link("set", index=index, state="up")
        kernel.route("add", dst="0.0.0.0/0", gateway=world.ROUTER)
        kernel.route("add", dst="::/0", gateway=world.ROUTER_V6)


def _plumb_far() -> None:
    with IPRoute() as kernel:
        index = kernel.link_lookup(ifname=_WIRE)[0]
        _address(kernel, index, world.ROUTER, world.PREFIX)
        _address(kernel, index, world.ROUTER_V6, world.PREFIX_V6)
        kernel.link("set", index=index, state="up")
        for address in (world.RESOLVER, world.SSH, world.TIME, *(site.address for site in world.SITES)):
            _address(kernel, 1, address, 32)
        # In the main table: in the local one it would swallow the answers to the host as well.
        for everything in ("0.0.0.0/0", "::/0"):
            kernel.route("add", dst=everything, type="local", scope="host", oif=1, table=254)
    _load_rules()


def _address(kernel: Any, index: int, address: str, prefix: int) -> None:
    # 2 is IFA_F_NODAD: an IPv6 address that may be used at once.
    flags = {"flags": 2} if ":" in address else {}
    kernel.addr("add", index=index, address=address, prefixlen=prefix, **flags)


def _load_rules() -> None:
    served = [(world.RESOLVER, "udp", 53), (world.RESOLVER, "tcp", 53), (world.SSH, "tcp", 22)]
    served += [(world.TIME, "udp", world.TIME_PORT)]
    served += [(site.address, "tcp", port) for site in world.SITES for port in (80, 443)]
    elements = ", ".join(f"{address} . {proto} . {port}" for address, proto, port in served)
    rules = f"""
        table inet world {{
            set served {{
                type ipv4_addr . inet_proto . inet_service
                elements = {{ {elements} }}
            }}
            chain arrivals {{
                type filter hook prerouting priority mangle; policy accept;
                iif "lo" accept
                ip daddr {world.SILENT} drop
                ip daddr {world.CLOSED} accept comment "nobody listens: the kernel refuses"
                ip daddr . meta l4proto . th dport @served accept
                ip daddr {world.PROGRAMS} tcp dport != {world.CANARY_PORT} accept comment "a test's program, if any"
                meta l4proto {{ tcp, udp }} tproxy ip to :{world.CANARY_PORT}
                meta l4proto {{ tcp, udp }} tproxy ip6 to :{world.CANARY_PORT}
            }}
        }}
    """
    nft.apply(rules)
