"""The frames of tests/kernel/frames.py, sent by root in a real guest, through its own kernel, driver and QEMU."""

import base64
import gzip
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.kernel.frames import FRAMES

from microagent.demo import world
from microagent.demo.lab import Lab
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.vm

NAME = "raw"
# Lines of hex on standard input become frames on the wire; the exit code says whether all were sent.
_SEND = r"""
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(void) {
    static char line[1 << 18];
    static unsigned char frame[1 << 17];
    int wire = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), failed = 0;
    struct sockaddr_ll to;
    memset(&to, 0, sizeof to);
    to.sll_family = AF_PACKET;
    to.sll_ifindex = if_nametoindex("eth0");
    while (fgets(line, sizeof line, stdin)) {
        size_t size = 0;
        unsigned byte;
        while (sscanf(line + 2 * size, "%2x", &byte) == 1)
            frame[size++] = byte;
        failed += sendto(wire, frame, size, 0, (struct sockaddr *)&to, sizeof to) != (ssize_t)size;
    }
    return failed != 0;
}
"""


def packed(data: bytes) -> str:
    """For a shell: unpacked by `base64 -d | gunzip`."""
    return base64.b64encode(gzip.compress(data)).decode()


def test_root_with_raw_sockets_in_a_real_guest_gets_nothing_out(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "send.c").write_text(_SEND)
    subprocess.run(["musl-gcc", "-static", "-Os", "-s", "-o", tmp_path / "send", tmp_path / "send.c"], check=True)
    frames = {what: [bytes(frame) for frame in make()] for what, make in FRAMES.items()}
    lines = "".join(f"{frame.hex()}\n" for found in frames.values() for frame in found)
    script = (
        f"echo {packed((tmp_path / 'send').read_bytes())} | base64 -d | gunzip > /tmp/send && chmod +x /tmp/send && "
        f"echo {packed(lines.encode())} | base64 -d | gunzip | /tmp/send && curl -sS https://api.ok.test/"
    )
    flags = ("--name", NAME, "--keep", "--egress", "strict", "--egress-allow", "api.ok.test")
    ran = lab.cli("run", *flags, "base", "sh", "-c", script)
    assert (ran.returncode, ran.stdout) == (0, "hello from api.ok.test\n"), ran.stderr

    expected = Counter({what: len(found) for what, found in frames.items()})
    deadline = time.monotonic() + 20
    while (told := recorded(lab)) - Counter(ipv6=told["ipv6"]) != expected - Counter(ipv6=expected["ipv6"]):
        assert time.monotonic() < deadline, (told, expected)
        time.sleep(0.2)
    # The guest's kernel has a word of its own to say about IPv6.
    assert told["ipv6"] >= expected["ipv6"]
    allowed = {Destination("tcp", world.API, 443)}
    assert Oracle(lab.internet).leaks(allowed, {"api.ok.test"}) == ()
    assert lab.cli("delete", NAME).returncode == 0


def recorded(lab: Lab) -> "Counter[str]":
    """Packets dropped, by kind, as the record says."""
    sums: Counter[str] = Counter()
    for record in lab.records(NAME):
        if record["event"] == "egress_drop":
            sums[record["what"]] += record["packets"]
    return sums
