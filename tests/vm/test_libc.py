"""How the two C libraries that guests have meet a REFUSED, and search lists, in a real guest."""

import base64
import json
import subprocess
import time
from typing import Any

import pytest

from microagent.demo import world
from microagent.demo.lab import Lab

pytestmark = pytest.mark.vm

# One line of JSON a name: what getaddrinfo(3) said, and how long it took.
_CLIENT = r"""
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        struct addrinfo hints, *found = 0;
        struct timespec began, ended;
        char text[INET_ADDRSTRLEN] = "";
        memset(&hints, 0, sizeof hints);
        hints.ai_socktype = SOCK_STREAM;
        clock_gettime(CLOCK_MONOTONIC, &began);
        int code = getaddrinfo(argv[i], 0, &hints, &found);
        clock_gettime(CLOCK_MONOTONIC, &ended);
        for (; !code && found; found = found->ai_next)
            if (found->ai_family == AF_INET)
                inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text);
        printf("{\"name\":\"%s\",\"address\":\"%s\",\"failed\":%s,\"no_such_name\":%s,\"ms\":%ld}\n",
               argv[i], text, code ? "true" : "false", code == EAI_NONAME ? "true" : "false",
               (ended.tv_sec - began.tv_sec) * 1000 + (ended.tv_nsec - began.tv_nsec) / 1000000);
    }
}
"""
_SEARCH = "search corp.example.org example.org ok.test\noptions ndots:5\n"


@pytest.fixture(scope="module", params=["gcc", "musl-gcc"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The program, for glibc (which the base image has) or with musl inside."""
    compiler = str(request.param)
    directory = tmp_path_factory.mktemp(compiler)
    source, program = directory / "client.c", directory / "client"
    source.write_text(_CLIENT)
    static = ["-static"] if compiler == "musl-gcc" else []
    subprocess.run([compiler, "-Os", "-s", *static, "-o", str(program), str(source)], check=True)
    return program.read_bytes()


def asked(lab: Lab, client: bytes, script: str) -> list[dict[str, Any]]:
    """What the program says in a strict guest that may resolve api.ok.test alone."""
    text = base64.b64encode(client).decode()
    prepare = f"echo {text} | base64 -d > /tmp/client && chmod +x /tmp/client"
    ran = lab.cli(
        "run", "--egress", "strict", "--egress-allow", "api.ok.test", "base", "sh", "-c", f"{prepare} && {script}"
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_names_resolve_and_refused_ones_fail_at_once(lab: Lab, client: bytes) -> None:
    allowed, refused = asked(lab, client, "/tmp/client api.ok.test evil.test")
    assert (allowed["address"], allowed["failed"]) == (world.API, False)
    assert refused["failed"]
    # Not how fast, but that nobody waits for a resolver that has refused: one timeout alone is a second.
    assert refused["ms"] < 1100


def test_the_hosts_search_list_is_the_guests_and_names_resolve_with_it(lab: Lab, client: bytes) -> None:
    names = "api.ok.test api evil.test api.ok.test.example.org. api.ok.test.evil.test."
    before = lab.internet.resolv_conf.read_text()
    lab.internet.resolv_conf.write_text(before + _SEARCH)
    try:
        script = f"grep -q 'search corp.example.org example.org ok.test' /etc/resolv.conf && /tmp/client {names}"
        allowed, short, refused, searched, foreign = asked(lab, client, script)
    finally:
        lab.internet.resolv_conf.write_text(before)
    assert (allowed["address"], allowed["failed"]) == (world.API, False)
    # Listed under the last domain alone: the ones before do not end the search.
    assert (short["address"], short["failed"]) == (world.API, False)
    assert (refused["failed"], refused["no_such_name"]) == (True, False)
    # What the search list made of a listed name is not there; the same behind a foreign name is refused as ever.
    assert (searched["failed"], searched["no_such_name"]) == (True, True)
    assert (foreign["failed"], foreign["no_such_name"]) == (True, False)


def test_the_search_list_a_guest_was_given_is_its_mediators_until_it_ends(lab: Lab, client: bytes) -> None:
    """The host's list is another one meanwhile: its nameservers count at once, the list at the guest's next start."""

    def ask(name: str) -> tuple[bool, bool]:
        ran = lab.cli("exec", "searching", "--", "/tmp/client", name)
        said = json.loads(ran.stdout)
        return said["failed"], said["no_such_name"]

    resolv_conf = lab.internet.resolv_conf
    before = resolv_conf.read_text()
    resolv_conf.write_text(before + _SEARCH)
    try:
        flags = ("--egress", "strict", "--egress-allow", ".ok.test", "--image", "base")
        assert lab.cli("create", "searching", *flags, "--", "sleep", "600").returncode == 0
        assert lab.cli("start", "searching").returncode == 0
        upload = ("sh", "-c", "base64 -d > /tmp/client && chmod +x /tmp/client")
        text = base64.b64encode(client).decode()
        assert lab.cli("exec", "searching", "--", *upload, stdin=text).returncode == 0
        assert ask("api.ok.test.example.org.") == (True, True)

        resolv_conf.write_text(f"nameserver {world.CLOSED}\nsearch corp.example.org\n")
        deadline, asked_names = time.monotonic() + 30, 0
        while not any(record["event"] == "egress_dns_error" for record in lab.records("searching")):
            assert time.monotonic() < deadline
            ask(f"n{asked_names}.ok.test.")
            asked_names += 1
        assert ask("api.ok.test.example.org.") == (True, True)
        assert ask("api.ok.test.evil.test.") == (True, False)
    finally:
        resolv_conf.write_text(before)
        lab.cli("delete", "searching", "--yes", "--force")
