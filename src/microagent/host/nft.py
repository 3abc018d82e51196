"""Running nft text in the calling thread's network namespace, through netfilter's own bindings.

How this works: libnftables waits for the kernel's answer to a transaction with select(2), which ends the whole process
when its socket has a number of 1024 or more. The agent has more descriptors than that with a hundred workspaces. So a
transaction runs in a thread of its own that has left the process's table of descriptors and begins with an empty one.
"""

import ctypes
import gc
import json
import os
import threading
from pathlib import Path
from typing import Any

from nftables import Nftables

from microagent.errors import HostError
from microagent.host.threads import start_thread

TEMPLATES = Path(__file__).resolve().parent.parent / "nft_templates"
if not TEMPLATES.exists():  # a checkout keeps them where a reader looks first: at the top
    TEMPLATES = Path(__file__).resolve().parents[3] / "nft_templates"

# libnftables keeps state between calls (it uses strtok(3)): two threads in it at once abort the process.
_ONE_AT_A_TIME = threading.Lock()

_libc = ctypes.CDLL(None, use_errno=True)
_CLOSE_RANGE_UNSHARE = 2  # linux/close_range.h
_FIRST = 3  # standard input, output and error stay
_LAST = (1 << 32) - 1


def apply(text: str) -> None:
    """Apply `text` as one transaction: all of it, or nothing and HostError.

    A fresh context per call: a libnftables context that has run once keeps its defines and can abort the
    interpreter when run again with others.
    """
    with _ONE_AT_A_TIME:
        error = _with_low_numbers(text)
    if error:
        raise HostError(
            f"nft refused the rules: {error.strip()}", "run `microagent doctor` to see what the kernel lacks"
        )


def _with_low_numbers(text: str) -> str:
    """What nft says against `text`, nothing when it was applied; the thread inherits the caller's namespace."""
    answers: list[str] = []

    def work() -> None:
        if _libc.close_range(_FIRST, _LAST, _CLOSE_RANGE_UNSHARE):
            answers.append(f"no table of descriptors of its own: {os.strerror(ctypes.get_errno())}")
            return
        code, _, error = Nftables().cmd(text)
        answers.append("" if code == 0 else error or f"code {code}")

    # What the collector closed in that thread would stay open for everybody else.
    collecting = gc.isenabled()
    gc.disable()
    try:
        thread = start_thread(work, "nft")
        thread.join()
    finally:
        if collecting:
            gc.enable()
    return answers[0] if answers else "nft ended unexpectedly"


def counters() -> dict[str, tuple[int, int]]:
    """Named counters of the namespace: name -> (packets, bytes); those of one name in several tables are one."""
    sums: dict[str, tuple[int, int]] = {}
    for item in _list("list counters"):
        if "counter" in item:
            counter = item["counter"]
            packets, size = sums.get(counter["name"], (0, 0))
            sums[counter["name"]] = packets + counter["packets"], size + counter["bytes"]
    return sums


def fingerprint() -> str:
    """The ruleset as nft prints it, without the figures that change by themselves: equal means untouched."""
    listing = _list("list ruleset")
    for item in listing:
        if "counter" in item:
            item["counter"] = {"name": item["counter"]["name"]}
        # Not "dynamic": nft 1.0.6 (Debian 12) leaves that flag out of its JSON.
        if "timeout" in item.get("set", {}).get("flags", ()):
            item["set"].pop("elem", None)  # the rules fill it, and it empties by itself
    return json.dumps(_without_figures(listing), sort_keys=True)


def _list(command: str) -> list[dict[str, Any]]:
    with _ONE_AT_A_TIME:
        nft = Nftables()
        nft.set_json_output(True)
        code, output, error = nft.cmd(command)
    if code != 0:
        raise HostError(f"nft cannot list: {error.strip()}")
    items: list[dict[str, Any]] = json.loads(output)["nftables"] if output else []
    return items


def _without_figures(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_figures(v) for k, v in value.items() if k not in ("handle", "packets", "bytes", "metainfo")}
    if isinstance(value, list):
        return [_without_figures(v) for v in value]
    return value
