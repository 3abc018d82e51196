"""What the clients of the rig do, and what came of it; each measurement checks that all of it arrived."""

import re
import time

from tests.bench.rig import BULK, NAME, Rig

from microagent.demo.namespaces import Namespace

SECONDS = 5
AT_ONCE = 16


def bulk(rig: Rig, where: Namespace) -> float:
    """MB/s of one download of BULK bytes over TLS, after a smaller one whose hash is compared."""
    script = f"curl -sSk https://{NAME}/hashed | sha256sum"
    found = rig.run(where, "sh", "-c", script).split()[0]
    if found != rig.bulk_hash:
        raise AssertionError("what arrived is not what was sent")
    began = time.perf_counter()
    size = rig.run(where, "curl", "-sSk", "-o", "/dev/null", "-w", "%{size_download}", f"https://{NAME}/bulk")
    elapsed = time.perf_counter() - began
    if int(size) != BULK:
        raise AssertionError(f"{size} of {BULK} bytes arrived")
    return BULK / elapsed / 1e6


def connections(rig: Rig, where: Namespace) -> float:
    """New TLS connections a second, one request each, AT_ONCE at a time."""
    return _wrk(rig, where, "-H", "Connection: close")


def requests(rig: Rig, where: Namespace, at_once: int = AT_ONCE) -> float:
    """Requests a second on connections that stay open, `at_once` of them."""
    return _wrk(rig, where, at_once=at_once)


def _wrk(rig: Rig, where: Namespace, *more: str, at_once: int = AT_ONCE) -> float:
    url = f"https://{NAME}/"
    said = rig.run(where, "wrk", "-t1", f"-c{at_once}", f"-d{SECONDS}s", *more, url)
    if bad := re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: .*", said):
        raise AssertionError(bad[0])
    found = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    if found is None:
        raise AssertionError(said)
    return float(found[1])
