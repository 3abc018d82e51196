"""agent.yaml."""

from pathlib import Path

import pytest

from microagent.agent.config import Config, load
from microagent.api.limits import RANGES, Limits
from microagent.errors import ApiError, PolicyError
from microagent.guests.workshop import RANGES as IMAGE_RANGES
from microagent.guests.workshop import Bounds


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    file = written(tmp_path / "agent.yaml", "state_dir: /srv/m\nupstream_ca: [/etc/a.pem]\n")
    assert load(file) == Config(state_dir=Path("/srv/m"), upstream_ca=(Path("/etc/a.pem"),))


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "[::1]:9464", "/run/microagent/metrics.sock"])
def test_metrics_stay_on_this_machine(tmp_path: Path, address: str) -> None:
    assert load(written(tmp_path / "agent.yaml", f"metrics: '{address}'\n")).metrics == address


def test_receivers_of_records(tmp_path: Path) -> None:
    found = load(written(tmp_path / "agent.yaml", "syslog: /dev/log\notlp: http://127.0.0.1:4318/v1/logs\n"))
    assert (found.syslog, found.otlp) == (Path("/dev/log"), "http://127.0.0.1:4318/v1/logs")


@pytest.mark.parametrize(
    "text",
    [
        "state_dir: here",
        "state_dir: 1",
        "upstream_ca: /a.pem",
        "upstream_ca: [a.pem]",
        "statedir: /x",
        "[]",
        "metrics: 9464",
        "metrics: 0.0.0.0:9464",
        "metrics: localhost:9464",
        "metrics: 127.0.0.1:0",
        "metrics: 127.0.0.1:65536",
        "syslog: dev/log",
        "otlp: 127.0.0.1:4318",
        "otlp: ftp://127.0.0.1/v1/logs",
        "otlp: http://user:secret@127.0.0.1/v1/logs",
        "otlp: 'http://127.0.0.1/v1 logs'",
        "otlp: http://[::1/v1/logs",
        "private: 10.0.0.0/8",
        "private: [intra.test]",
        "private: [10.0.0.1/8]",
    ],
)
def test_wrong_files(tmp_path: Path, text: str) -> None:
    with pytest.raises(PolicyError, match=r"agent\.yaml:1"):
        load(written(tmp_path / "agent.yaml", text))


def test_all_that_is_wrong_is_named(tmp_path: Path) -> None:
    text = "metrics: localhost:1\nlimits: {dns_seconds: -1, connection: 2}\notlp: ftp://x\nsyslog: here\nprivate: [a]\n"
    with pytest.raises(PolicyError) as caught:
        load(written(tmp_path / "agent.yaml", text))
    assert [problem.line for problem in caught.value.problems] == [1, 2, 2, 3, 4, 5]
    assert "limits.dns_seconds is not a whole number from 1 to 60" in caught.value.what


def test_private_networks(tmp_path: Path) -> None:
    file = written(tmp_path / "agent.yaml", 'private: [192.0.2.0/24, "2001:db8::/48", 203.0.113.9]\n')
    assert [str(network) for network in load(file).private] == ["192.0.2.0/24", "2001:db8::/48", "203.0.113.9/32"]


def test_bounds_of_images(tmp_path: Path) -> None:
    file = written(tmp_path / "agent.yaml", "images:\n  image_bytes: 2000000\n  stall_seconds: 5\n")
    assert load(file).images == Bounds(image_bytes=2000000, stall_seconds=5)


def test_limits(tmp_path: Path) -> None:
    file = written(tmp_path / "agent.yaml", "limits:\n  connections: 5\n  tcp_idle_seconds: 60\n")
    assert load(file).limits == Limits(connections=5, tcp_idle_seconds=60)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("limits: 5", "not a mapping"),
        ("limits: {connection: 5}", "unknown key 'connection'"),
        ("limits: {connections: 0}", "from 1 to"),
        ("limits: {connections: true}", "from 1 to"),
        ("limits: {connections: '5'}", "from 1 to"),
        ("limits: {connections: 1, connections: 2}", "twice"),
        ("images: 5", "not a mapping"),
        ("images: {file: 5}", "unknown key 'file'"),
        ("images: {reserve_parts: 5}", "unknown key"),
        ("images: {image_bytes: 1000}", "images.image_bytes is not a whole number from 1048576 to"),
        ("limits: {dial_seconds: 1.5}", "no meaning here"),
    ],
)
def test_wrong_limits(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(PolicyError, match=what):
        load(written(tmp_path / "agent.yaml", text))


def test_every_limit_is_documented_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    cells = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    documented: dict[str, str] = {}
    for names, defaults in cells:
        numbers = [word.strip().split(" ")[0] for word in defaults.split(",")]
        documented |= dict(zip((name.strip(" `") for name in names.split(",")), numbers, strict=False))
    for name in RANGES:
        assert documented.get(name) == str(getattr(Limits(), name)), name
    for name in IMAGE_RANGES:
        assert documented.get(name) == str(getattr(Bounds(), name)), name


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=r"cannot read .*/none\.yaml: No such file or directory$") as error:
        load(tmp_path / "none.yaml")
    assert error.value.code == "invalid"
