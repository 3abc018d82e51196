"""`doctor NAME`: tries a running workspace's enforcement from inside the guest, and has the result recorded."""

import asyncio
import re
import secrets
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from aiohttp import web

from microagent.agent.attach import running
from microagent.agent.bringup import Life
from microagent.agent.handlers import FLEET, named
from microagent.agent.peers import who
from microagent.agent.undo import cancelled
from microagent.api.link import GATEWAY
from microagent.audit.reader import Filter
from microagent.audit.record import timestamp
from microagent.audit.tail import Tail
from microagent.doctor import probe
from microagent.doctor.probe import Said, answers_untrusted
from microagent.doctor.workspace import DIRECT, HOST_PORTS, Facts, Plan, address_of, findings, host_query, speaks
from microagent.errors import ApiError, Malformed
from microagent.guests.bootdisk import ADDED_ROOTS, ALL_ROOTS, RUN
from microagent.guests.exec import Collected
from microagent.policy.model import Mode
from microagent.workspace.store import EGRESS

if TYPE_CHECKING:
    from microagent.api.messages import Examined

# The guest's root: the probe sends a ping, and reads what a workload may not be allowed to.
_ROOT = "0"
_BUSYBOX = f"{RUN}/busybox"
# A start of a runtime in an emulated guest takes seconds.
_SECONDS = 60.0
_TRIES = 3
# After the last attempt: what the kernel logged of it is then on record.
_SETTLED = 0.5
# A run without a flood has less than ten that matter.
_MOST_RECORDS = 1000
# No resolv.conf, and no list of our variables, is longer.
_MOST = 1 << 14
_NAMESERVER = re.compile(rb"^[ \t]*nameserver[ \t]+([^ \t\n]+)", re.MULTILINE)
_HELD = re.compile(rb"([A-Z_]{1,40}) ([0-9]{1,6}|none)")
_ABSENT = 99
_LONGEST_WORDS = 300

# $1: the lines of the CA; then the variables. The lines are counted, so the guest's bundle stays where it is.
_BUNDLES = """
lines=$1; shift
for name; do
	eval "file=\\$$name"
	if [ -f "$file" ]; then echo "$name $(/run/microagent/busybox grep -F -x -c -e "$lines" "$file")"
	else echo "$name none"; fi
done
"""
# Each shakes hands with $1 at $2, behind a certificate of the workspace's CA: in strict mode a name that the mediator
# refuses, which needs trust and no network beyond, else an allowed host. What it prints in the end is why not.
_HANDSHAKES = {
    "python3": """exec python3 -c '
import socket, ssl, sys
name, address = sys.argv[1:]
try:
    ssl.create_default_context().wrap_socket(socket.create_connection((address, 443), 30), server_hostname=name)
except OSError as error:
    sys.exit(str(error))' "$1" "$2" """,
    "openssl": 'exec openssl s_client -connect "$2:443" -servername "$1" -verify_hostname "$1" -verify_return_error '
    "< /dev/null > /dev/null",
    "node": """exec node -e '
const [name, address] = process.argv.slice(1);
require("tls").connect({host: address, port: 443, servername: name}, () => process.exit(0))
  .on("error", (error) => { console.error(error.message); process.exit(1); });' "$1" "$2" """,
}
# curl has no handshake without a request, which is for nobody but the mediator.
_REFUSED = {
    "curl": 'code=$(curl -sS --max-time 30 -o /dev/null -w "%{http_code}" --noproxy "*" --resolve "$1:443:$2" '
    '"https://$1/") && [ "$code" = 403 ]',
    **_HANDSHAKES,
}


# With GnuTLS, git reads its bundle after it has connected. In an emulated guest the mediator decides by the address
# before that, and once more when the name comes: so it has to be a host that the guest may reach. git has no handshake
# without a request; whatever the host answers to it came through.
_LATE = {
    "git": """[ -e "$(git --exec-path)/git-remote-https" ] || exit 99  # _ABSENT
cd / && words=$(GIT_TRACE_CURL=1 GIT_TRACE_CURL_NO_DATA=1 GIT_TERMINAL_PROMPT=0 \\
	git -c http.proxy= -c http.followRedirects=false ls-remote "https://$1/" 2>&1 < /dev/null)
case $words in *" header: HTTP/"*) exit 0 ;; esac
echo "${words##*fatal: }" >&2; exit 1""",
}


async def examine(request: web.Request) -> web.Response:
    """Tries it, has the result recorded, answers with it. ApiError `conflict` where nothing is enforced."""
    supervisor = named(request)
    egress, name = supervisor.egress, supervisor.record.name
    if egress.mode is Mode.OFF:
        raise ApiError("conflict", f"the egress of {name} is off: nothing is enforced", "make one with --egress strict")
    life = running(supervisor)
    plan = Plan(egress.mode, egress.policy, f"doctor-{secrets.token_hex(6)}.microagent.invalid")
    services = request.app[FLEET].services
    ca = services.store.ca(name)[0]
    with Tail(services.store.path(name, EGRESS)) as tail:
        await asyncio.to_thread(lambda: list(tail.past(Filter(), 0)))
        began = timestamp(datetime.now(UTC))
        facts = await _Examination(life, plan, ca, tail).facts()
    found = findings(plan, facts)
    failed = [one.name for one in found if not one.ok]
    # What else the record holds of that host since then may be no workload's doing.
    fields: dict[str, Any] = {"who": who(request.get_extra_info("socket")), "checks": [one.name for one in found]}
    fields |= {"first": began} | ({"host": plan.host} if plan.host else {})
    try:
        await life.keeper.mediator.record("enforcement_verified", fields | ({"failed": failed} if failed else {}))
    except ConnectionError as error:
        raise ApiError("busy", f"the mediator of {name} ended meanwhile", "try again in a moment") from error
    answer: Examined = {
        "name": name,
        "ok": not failed,
        "checks": [{"name": one.name, "ok": one.ok, "detail": one.detail, "fix": one.fix} for one in found],
        "untried": plan.untried(facts.reached),
    }
    return web.json_response(answer)


class _Examination:
    """One look at one workspace, from both sides."""

    def __init__(self, life: Life, plan: Plan, ca: bytes, tail: Tail) -> None:
        self._life = life
        self._plan = plan
        self._ca_lines = [line for line in ca.decode("ascii").splitlines() if "-----" not in line]
        self._tail = tail

    async def facts(self) -> Facts:
        """All that `findings` needs."""
        network, keeper = self._life.network, self._life.keeper
        async with keeper.changing:
            repaired = await asyncio.to_thread(network.repair)
        counted = await asyncio.to_thread(network.counters)
        before = time.time()
        # The probe waits most of its time, for what must not come: what costs time goes on meanwhile.
        asking = asyncio.create_task(self._said())
        try:
            strict = self._plan.mode is Mode.STRICT
            runtimes = await self._runtimes(_REFUSED, self._plan.name, DIRECT) if strict else {}
            said, after = await asking
        finally:
            await cancelled(asking)
        records = await self._new_records()
        reached, address = await self._reach(self._plan.host, records) if self._plan.host else (None, "")
        if not self._plan.untrusting(reached):
            scripts = _LATE if strict else _HANDSHAKES | _LATE
            runtimes |= await self._runtimes(scripts, self._plan.trusting_host, address)
        bundles, nameservers = await asyncio.gather(self._bundles(), self._nameservers())
        await asyncio.sleep(_SETTLED)
        records += await self._new_records()
        now = await asyncio.to_thread(network.counters)
        return Facts(
            said=said,
            moved={name: packets - counted.get(name, (0, 0))[0] for name, (packets, _) in now.items()},
            records=records,
            before=before,
            after=after,
            repaired=repaired,
            alive=not keeper.mediator.ended.done(),
            ca_lines=len(self._ca_lines),
            bundles=bundles,
            nameservers=nameservers,
            runtimes=runtimes,
            reached=reached,
        )

    async def _said(self) -> tuple[dict[str, Said], float]:
        """The answers by name, and when they were there."""
        questions = self._plan.questions
        answers = await self._ask(list(questions.values()))
        return dict(zip(questions, answers, strict=True)), time.time()

    async def _ask(self, questions: Sequence[str]) -> list[Said]:
        """The probe's answers; ApiError `failed` for what is none."""
        done = await self._life.guest.commands.collect(
            [f"{RUN}/probe"],
            user=_ROOT,
            stdin="".join(f"{line}\n" for line in questions).encode(),
            seconds=_SECONDS + probe.SECONDS_EACH * len(questions),
            most=probe.LONGEST_LINE * len(questions),
        )
        try:
            return answers_untrusted(done.stdout, questions)
        except Malformed as error:
            hint = "a workspace that was started by an earlier version has no probe: stop and start it"
            raise ApiError("failed", f"the probe in the guest gives no answer: {error.what}", hint) from error

    async def _new_records(self) -> list[dict[str, Any]]:
        """Those that matter here; all are read, but a guest that makes many fills no memory of ours."""

        def read() -> list[dict[str, Any]]:
            news = filter(self._plan.concerns, self._tail.records())
            kept = list(islice(news, _MOST_RECORDS))
            deque(news, maxlen=0)
            return kept

        return await asyncio.to_thread(read)

    async def _reach(self, host: str, records: list[dict[str, Any]]) -> tuple[dict[int, Said], str]:
        """What comes back at the first port where the host speaks, and at those before it; and its address.

        It is asked for the beginning of a TLS handshake, else for the head of a page, else for nothing.
        """
        await self._ask([probe.udp(str(GATEWAY.ip), 53, host_query(host))])
        news = await self._new_records()
        records += news
        reached: dict[int, Said] = {}
        if address := address_of(host, news):
            words = {443: _client_hello(host), 80: f"HEAD / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), 22: b""}
            for port in HOST_PORTS:
                (reached[port],) = await self._ask([probe.tcp(address, port, words[port])])
                if speaks(port, reached[port]):
                    break
        return reached, address

    async def _bundles(self) -> dict[str, int | None]:
        script = [_BUSYBOX, "sh", "-c", _BUNDLES, "sh", "\n".join(self._ca_lines), *ALL_ROOTS, *ADDED_ROOTS]
        done = await self._life.guest.commands.collect(script, seconds=_SECONDS, most=_MOST)
        held = filter(None, map(_HELD.fullmatch, done.stdout.splitlines()))
        found = {one[1].decode(): None if one[2] == b"none" else int(one[2]) for one in held}
        return {name: found.get(name) for name in (*ALL_ROOTS, *ADDED_ROOTS)}

    async def _nameservers(self) -> list[str]:
        command = [_BUSYBOX, "head", "-c", "4096", "/etc/resolv.conf"]
        done = await self._life.guest.commands.collect(command, user=_ROOT, seconds=_SECONDS, most=_MOST)
        return [word.decode("utf-8", "replace") for word in _NAMESERVER.findall(done.stdout)]

    async def _runtimes(self, scripts: Mapping[str, str], host: str, address: str) -> dict[str, str]:
        """Those that the image has, each with "" or its last words. One after the other: a guest may have one CPU."""
        found = {}
        for name, script in scripts.items():
            whole = f"command -v {name} > /dev/null || exit {_ABSENT}\n{script}"
            command = [_BUSYBOX, "sh", "-c", whole, "sh", host, address]
            try:
                done = await self._patiently(command)
            except ApiError as error:
                found[name] = error.what
                continue
            if done.code == 0:
                found[name] = ""
            elif done.code != _ABSENT:
                words = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"ended with {done.code}"]
                found[name] = words[-1][:_LONGEST_WORDS]
        return found

    async def _patiently(self, command: list[str]) -> Collected:
        """Silent for 300 ms, a client is taken for one that names no host: the next try finds its files cached."""
        for _ in range(_TRIES):
            done = await self._life.guest.commands.collect(command, seconds=_SECONDS, most=_MOST)
            if done.code in (0, _ABSENT):
                break
        return done


def _client_hello(host: str) -> bytes:
    """The first bytes that OpenSSL would send to `host`."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")
