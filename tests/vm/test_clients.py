"""Programs that people use, in a real guest, with nobody having told them about the workspace's CA.

Each has a host name of its own and does what it is for (clone, install, pull, …) with a server that knows nothing of
microagent. They run one after the other in one guest; each row is judged by what it said, by the record and by the
server's own log.
"""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore
from tests.kernel.certificates import certify
from tests.records import Witness
from tests.vm.conftest import BUILD
from tests.vm.origin import Origin, running

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.lab import GUEST_DIR, Lab
from microagent.demo.oracle import Destination, Oracle

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

_GET = r"GET /hello HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n"
_NODE = "require('https').get('https://HOST/hello', r => r.pipe(process.stdout))"
_SOCKET = """
import asyncio, websockets
async def main():
    async with websockets.connect("wss://HOST/live/socket") as socket:
        await socket.send("olleh")
        print(await socket.recv())
asyncio.run(main())
"""
_GRPC = """
import grpc, queue
words = queue.Queue()
with grpc.secure_channel("HOST:443", grpc.ssl_channel_credentials()) as channel:
    call = channel.stream_stream("/test.Echo/Echo")(iter(words.get, None), timeout=120)
    for word in (b"hello", b"again"):
        words.put(word)
        assert next(call) == word
    words.put(None)
    assert not list(call)
print("hello")
"""
# What each program is told to do; it prints "hello" when it was served.
CLIENTS = {
    "curl": "curl -sS https://HOST/hello",
    "curl-http1": "curl -sS --http1.1 https://HOST/hello",
    "wget": "wget -qO- https://HOST/hello",
    "git": "git clone -q https://HOST/repo.git /tmp/repo && cat /tmp/repo/hello",
    "pip": "pip install -q --disable-pip-version-check --root-user-action ignore --index-url https://HOST/simple/"
    " --target /tmp/pip madeup && PYTHONPATH=/tmp/pip python3 -m madeup",
    "python": "python3 -c 'import urllib.request as u; print(u.urlopen(\"https://HOST/hello\").read().decode())'",
    "requests": "python3 -c 'import requests; print(requests.get(\"https://HOST/hello\").text)'",
    "node": f'node -e "{_NODE}"',
    "npm": "cd /tmp && npm install --silent --no-audit --no-fund --registry=https://HOST/ madeup"
    " && node -e 'require(\"madeup\")'",
    "java": "java -cp /tmp Get https://HOST/hello",
    # As images have it whose Java is 18 or newer.
    "java-pkcs12": "echo P12 | base64 -d > $JKS; sh /run/microagent/setup; java -cp /tmp Get https://HOST/hello",
    "skopeo": "skopeo --insecure-policy copy -q docker://HOST/madeup:1 dir:/tmp/image"
    " && for file in /tmp/image/*; do tar xOf $file hello 2>/dev/null; done",
    "apt": "apt-get -qq $APT update && apt-get -qq $APT install madeup >/dev/null && cat /usr/share/madeup/hello",
    "openssl": f"printf '{_GET}' | openssl s_client -quiet -verify_return_error -connect HOST:443 2>/dev/null",
    "gnutls": f"{{ printf '{_GET}'; sleep 2; }} | gnutls-cli HOST",
    "ncat": f"printf '{_GET}' | ncat --ssl-verify HOST 443",
    "websocket": f"python3 -c '{_SOCKET}'",
    "grpc": f"python3 -c '{_GRPC}'",
    "sse": "curl -sSN https://HOST/live/events | grep -q 'data: 4' && echo hello",
}
# The same where files are as Alpine has them; with no variables set, so that only the files count.
ALPINE = {
    "alpine-curl": "env -i /bin/curl -sS https://HOST/hello",
    "alpine-openssl": f"printf '{_GET}' | env -i /bin/openssl s_client -quiet -verify_return_error -connect HOST:443",
}
# Whom doctor asks: the first that an exact entry names.
LOOKED_AT = "doctor.ok.test"
NAMES = (*(f"{client}.ok.test" for client in {**CLIENTS, **ALPINE}), LOOKED_AT)
_PATIENCE = 1000  # seconds, for all of them, emulated on a busy machine
OPENED = {Destination("tcp", world.PROGRAMS, 443)}


@dataclass(frozen=True)
class Session:
    """What came of it: the guest's output by client, the records, the server's log, and what doctor says."""

    said: dict[str, str]
    records: list[dict[str, Any]]
    served: list[list[str]]
    leaks: tuple[str, ...]
    looked: dict[str, Any]


def _script(origin: Origin) -> str:
    get = base64.b64encode((Path(__file__).parent / "clients/Get.class").read_bytes()).decode()
    lines = [
        "exec 2>&1; export HOME=/root JKS=/etc/ssl/certs/java/cacerts",
        f"echo {get} | base64 -d > /tmp/Get.class; echo {origin.apt_key} | base64 -d > /tmp/key.gpg",
        "echo 'deb [signed-by=/tmp/key.gpg] https://apt.ok.test made main' > /tmp/list",
        "APT='-o Dir::Etc::SourceList=/tmp/list -o Dir::Etc::SourceParts=-'",
    ]
    steps = _steps(CLIENTS).replace("P12", base64.b64encode(_pkcs12()).decode())
    return "\n".join([*lines, steps])


def _steps(clients: dict[str, str]) -> str:
    lines = (command.replace("HOST", f"{client}.ok.test") for client, command in clients.items())
    return "\n".join(
        f"echo; echo '== {client}'; {{ {line}; }} </dev/null 2>&1" for client, line in zip(clients, lines, strict=True)
    )


def _pkcs12() -> bytes:
    """A Java trust store of one certificate that vouches for nobody here."""
    root = PKCS12Certificate(certify("somebody", None, ca=True).certificate, b"somebody")
    return serialize_java_truststore([root], BestAvailableEncryption(b"changeit"))


def _alpine(root: Path) -> str:
    """A root filesystem with busybox, curl, openssl, and certificates where Alpine has them."""
    for directory in ("bin", "etc/ssl/certs", "usr/lib"):
        (root / directory).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in ("sh", "env", "printf"):
        (root / "bin" / applet).symlink_to("busybox")
    for program in ("curl", "openssl"):
        shutil.copy(f"/usr/bin/{program}", root / "bin")
        needed = subprocess.run(["ldd", f"/usr/bin/{program}"], check=True, capture_output=True, text=True).stdout
        for library in (word for word in needed.split() if word.startswith("/")):
            target = root / library[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs")
    (root / "etc/ssl/cert.pem").symlink_to("certs/ca-certificates.crt")
    (root / "usr/lib/ssl").symlink_to("../../etc/ssl")
    root.chmod(0o755)
    return str(root)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    subprocess.run([BUILD, "--out", GUEST_DIR, "--clients"], check=True)
    zone = {**world.ZONE, **{name: {"A": [world.PROGRAMS]} for name in NAMES}}
    room = tmp_path_factory.mktemp("clients")
    root = certify("the operator's root", None, ca=True)
    trusted = room / "root.pem"
    trusted.write_text(root.pem)
    certificate = certify("origin", root, names=NAMES).server_pem()
    # Emulated, on cores that others use, Java takes seconds for a handshake.
    patient = {"limits": {"tls_handshake_seconds": 120}}
    with Internet(zone) as internet, Lab(internet, settings=patient) as lab, Witness(lab.state):
        with running(internet, tmp_path_factory.mktemp("origin"), certificate) as origin:
            output, looked = _examined(lab, trusted, _script(origin))
            output += _run(lab, "alpine", trusted, _alpine(room / "root"), _steps(ALPINE))
        said = dict(part.split("\n", 1) for part in output.split("== ")[1:])
        leaks = Oracle(internet).leaks(OPENED, set(NAMES))
        yield Session(said, lab.records("clients") + lab.records("alpine"), origin.log, leaks, looked)


def _run(lab: Lab, name: str, trusted: Path, image: str, script: str) -> str:
    with lab.start(*_arguments(name, trusted, image, script)) as command:
        output, _ = command.communicate(timeout=_PATIENCE)
    return output


def _examined(lab: Lab, trusted: Path, script: str) -> tuple[str, dict[str, Any]]:
    """What the programs said, and what doctor says of their guest, which waits for that when they have ended."""
    image, wait = str(GUEST_DIR / "clients"), "echo; echo LOOK; until [ -e /looked ]; do sleep 0.2; done"
    with lab.start(*_arguments("clients", trusted, image, f"{script}\n{wait}")) as command:
        assert command.stdout
        said = list(iter(command.stdout.readline, "LOOK\n"))
        looked = lab.cli("--json", "doctor", "clients")
        assert lab.cli("exec", "clients", "--", "touch", "/looked").returncode == 0
        command.communicate(timeout=_PATIENCE)
    found: dict[str, Any] = json.loads(looked.stdout)
    return "".join(said), found


def _arguments(name: str, trusted: Path, image: str, script: str) -> tuple[str, ...]:
    flags = (
        "--egress",
        "strict",
        "--egress-allow",
        ".ok.test",
        "--egress-allow",
        LOOKED_AT,
        "--upstream-ca",
        str(trusted),
    )
    return "run", "--name", name, "--keep", *flags, image, "/bin/sh", "-c", script


@pytest.mark.parametrize("client", [*CLIENTS, *ALPINE])
def test_a_program_is_served_through_interception_as_it_is(session: Session, client: str) -> None:
    host = f"{client}.ok.test"
    about = [record for record in session.records if record.get("host") == host]
    assert "hello" in session.said[client].splitlines(), (session.said[client], about)
    # A program that is slow to begin is first allowed by its lease, and then by the name it says.
    last = {record["flow"]: record["tls"] for record in about if record["event"] == "egress_allow"}
    assert set(last.values()) == {"intercept"}
    assert not [record for record in about if record["event"] == "egress_mitm_handshake_error"]
    # What the server says it was asked for is what the record says.
    asked = [(record["method"], record["path"]) for record in about if record["event"] == "egress_request"]
    served = [(method, target.split("?")[0]) for where, method, target, _ in session.served if where == host]
    assert sorted(asked) == sorted(served)
    assert asked


def test_doctor_tries_the_trust_of_each_runtime_there_is(session: Session) -> None:
    checks = {one["name"]: one for one in session.looked["checks"]}
    assert {name: one["detail"] for name, one in checks.items() if not one["ok"]} == {}
    assert {f"ca of {runtime}" for runtime in ("curl", "python3", "openssl", "node", "git")} <= checks.keys()


def test_nothing_else_left_the_host(session: Session) -> None:
    assert session.leaks == ()
