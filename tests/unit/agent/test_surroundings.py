"""The host's surroundings, looked at again and again."""

import logging
from pathlib import Path

import pytest

from microagent.agent.config import Config
from microagent.agent.surroundings import Looker

pytestmark = pytest.mark.asyncio


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
