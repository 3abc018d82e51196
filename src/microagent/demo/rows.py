"""What the demonstration's guest tries, what must come of it, and how the record must tell it. Pure.

Each attempt is a few lines of shell that set `got` to "exit CODE; …"; the guest prints it as one line,
`row TAB key TAB milliseconds TAB got`, and the host judges it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from microagent.demo import world
from microagent.demo.authority import ORGANISATION

ALLOWED = "api.ok.test"
PINNED = "pinned.test"
DENIED = "evil.test"

# Not a time-out (28): a denial is quick and says so, be it as a refusal, a reset or a 403 with the reason.
_REFUSED = r"^exit (7|35|52|56); http 000|^exit 0; http 403; egress_denied"


@dataclass(frozen=True, slots=True)
class Row:
    """One attempt. `right` is searched for in what the guest got, `record` must be part of some record."""

    key: str
    tried: str
    expected: str
    script: str
    right: str
    record: Mapping[str, Any]


def _fetch(url: str, more: str = "") -> str:
    """Fetch over HTTP(S); keeps exit code, status, and either the reason in a refusal's body or curl's error."""
    return f"""status=$(curl -sS -m 20 {more} -o /tmp/body -w '%{{http_code}}' '{url}' 2>/tmp/error)
got="exit $?; http $status; $(reason || sed 's/^curl: ([0-9]*) //' /tmp/error)" """


def _fetch_tls(url: str, more: str = "") -> str:
    """Fetch over HTTPS and keep exit code, the certificate's issuer and the body."""
    return f"""out=$(curl -sSv -m 20 {more} '{url}' 2>&1); code=$?
got="exit $code; issuer: $(printf '%s' "$out" | sed -n 's/^\\*  *issuer: //p'); $(printf '%s' "$out" | tail -n 1)" """


ROWS = (
    Row(
        "allowed",
        f"https://{ALLOWED}/ (allowed)",
        "answered; the certificate is minted by the workspace's CA and verifies",
        _fetch_tls(f"https://{ALLOWED}/"),
        rf"^exit 0; issuer: (?!.*{ORGANISATION}).+; hello from {ALLOWED}",
        {"event": "egress_allow", "host": ALLOWED, "tls": "intercept"},
    ),
    Row(
        "passthrough",
        f"https://{PINNED}/ (passthrough)",
        "answered; the server's own certificate",
        _fetch_tls(f"https://{PINNED}/", "--cacert /tmp/internet.pem --capath /nowhere"),
        rf"^exit 0; issuer: .*{ORGANISATION}.*; hello from {PINNED}",
        {"event": "egress_allow", "host": PINNED, "tls": "passthrough"},
    ),
    Row(
        "name",
        f"dig {DENIED} (not on the list)",
        "REFUSED, with the reason",
        f"""out=$(dig +tries=1 +timeout=5 {DENIED} 2>&1)
got="exit $?; $(printf '%s' "$out" | sed -n 's/.*status: \\([A-Z]*\\).*/\\1/p; s/^; EDE: /EDE /p' | tr '\\n' ' ')" """,
        r"^exit 0; REFUSED EDE 15",
        {"event": "egress_dns_deny", "qname": DENIED},
    ),
    Row(
        "host",
        f"http://{DENIED}/ without asking the DNS",
        "403 with the reason",
        _fetch(f"http://{DENIED}/", f"--resolve {DENIED}:80:{world.EVIL}"),
        r"^exit 0; http 403; egress_denied: name_not_listed",
        {"event": "egress_deny", "host": DENIED},
    ),
    Row(
        "address",
        f"https://{world.EVIL}/ (an address nobody allowed)",
        "refused",
        _fetch(f"https://{world.EVIL}/", "-k"),
        _REFUSED,
        {"event": "egress_deny", "dst": f"{world.EVIL}:443"},
    ),
    Row(
        "metadata",
        f"http://{world.METADATA}/ (cloud metadata)",
        "refused",
        _fetch(f"http://{world.METADATA}/latest/"),
        _REFUSED,
        {"event": "egress_internal_deny", "dst": f"{world.METADATA}:80"},
    ),
    Row(
        "private",
        f"http://{world.PRIVATE}/ (somebody's internal network)",
        "refused",
        _fetch(f"http://{world.PRIVATE}/"),
        _REFUSED,
        {"event": "egress_internal_deny", "dst": f"{world.PRIVATE}:80"},
    ),
    Row(
        "quic",
        f"UDP {world.API}:443 (QUIC)",
        "refused at once, so that clients fall back to TCP",
        f"""out=$(bash -c 'exec 3<>/dev/udp/{world.API}/443; echo x >&3; read -t 5 -u 3 line' 2>&1); code=$?
got="exit $code; $out" """,
        r"Connection refused",
        {"event": "egress_udp_deny", "dst": f"{world.API}:443"},
    ),
    Row(
        "ping",
        f"ping {world.API}",
        "no answer",
        f"""out=$(ping -c 1 -W 1 {world.API} 2>&1); got="exit $?; $(printf '%s' "$out" | grep transmitted)" """,
        r"^exit 1; 1 packets transmitted, 0 received",
        {"event": "egress_drop", "what": "icmp"},
    ),
)

# What the uplink may carry when all rows are right.
REACHED = ((world.API, ALLOWED), (world.PINNED, PINNED))


def script(internet_ca: str) -> str:
    """The program the guest runs; `internet_ca` is the PEM that the passthrough row verifies against."""
    attempts = "\n".join(f"begin\n{row.script}\nsay {row.key}" for row in ROWS)
    return f"""
cat > /tmp/internet.pem <<'PEM'
{internet_ca.strip()}
PEM
reason() {{
	grep -q egress_denied /tmp/body && sed 's/.*"reason": *"\\([a-z_]*\\)".*/egress_denied: \\1/' /tmp/body
}} 2>/dev/null
begin() {{ rm -f /tmp/body; started=$(date +%s%3N); }}
say() {{
	took=$(($(date +%s%3N) - started))
	printf 'row\\t%s\\t%s\\t%s\\n' "$1" "$took" "$(printf '%s' "$got" | tr '\\t\\n' '  ')"
}}
{attempts}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row with what became of it; `recorded` is the record's event, "" when there is none."""

    row: Row
    happened: str
    milliseconds: int
    recorded: str

    @property
    def right(self) -> bool:
        """Whether it is what was expected, and told."""
        return bool(re.search(self.row.right, self.happened)) and bool(self.recorded)


def judge(output: Iterable[str], records: Iterable[Mapping[str, Any]]) -> tuple[Outcome, ...]:
    """One outcome for every row, from the lines the guest printed and the workspace's records."""
    told = list(records)
    got: dict[str, tuple[int, str]] = {}
    for line in output:
        parts = line.rstrip("\n").split("\t", 3)
        if len(parts) == 4 and parts[0] == "row" and parts[2].isdigit():
            got[parts[1]] = (int(parts[2]), parts[3].strip())
    outcomes = []
    for row in ROWS:
        milliseconds, happened = got.get(row.key, (0, "the guest said nothing"))
        recorded = any(row.record.items() <= record.items() for record in told)
        outcomes.append(Outcome(row, happened, milliseconds, str(row.record["event"]) if recorded else ""))
    return tuple(outcomes)
