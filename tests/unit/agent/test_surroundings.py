"""The host's surroundings, looked at again and again."""

import asyncio
import logging
import subprocess
from pathlib import Path

import pytest

from microagent.agent.config import Config
from microagent.agent.surroundings import Looker
from microagent.demo.namespaces import Namespace


@pytest.mark.asyncio
async def test_what_cannot_be_read_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "resolv.conf"
    looker = Looker(Config(resolv_conf=file))
    caplog.set_level(logging.WARNING)
    assert [await looker.look() for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    file.write_text("nameserver 192.0.2.53\n")
    found = await looker.look()
    assert found is not None
    assert found[0].resolvers == ("192.0.2.53",)
    file.unlink()
    assert [await looker.look() for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 2


@pytest.mark.kernel
def test_a_container_that_comes_or_goes_is_no_change(tmp_path: Path) -> None:
    """Its veth's host end has an address of fe80::/10; a bridge with an address of its own is one."""
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.53\n")
    host = Namespace()

    def seen() -> object:
        return host.run(lambda: asyncio.run(Looker(Config(resolv_conf=file)).look()))

    try:
        before = seen()
        for command in ("link add veth0 type veth peer name veth1", "addr add fe80::9/64 dev veth0 nodad"):
            subprocess.run(host.argv("ip", *command.split()), check=True)
        assert seen() == before
        subprocess.run(host.argv("ip", "addr", "add", "172.17.0.1/16", "dev", "veth0"), check=True)
        assert seen() != before
    finally:
        host.close()
