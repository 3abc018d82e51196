"""What `make install` puts on a machine fits the agent."""

import re
import subprocess
from pathlib import Path

from microagent.agent.config import load

PACKAGING = Path(__file__).parents[2] / "packaging"
# Each of these gives a unit a mount namespace of its own (systemd.exec(5)).
MOUNT_NAMESPACE = {
    "BindPaths",
    "BindReadOnlyPaths",
    "ExecPaths",
    "InaccessiblePaths",
    "MountFlags",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateTmp",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
}


def test_the_unit_leaves_workspaces_and_their_namespaces_alone() -> None:
    lines = (PACKAGING / "microagent.service").read_text().splitlines()
    settings = [line.partition("=")[::2] for line in lines if "=" in line and not line.startswith("#")]
    assert ("KillMode", "process") in settings
    assert not {key for key, _ in settings} & MOUNT_NAMESPACE


def systemd_says(unit: str, directory: Path, *command: str) -> tuple[int, str]:
    """Exit code and words of systemd-analyze about a unit, whose program is one that every machine has."""
    file = directory / "microagent.service"
    file.write_text(unit.replace("/usr/local/bin/microagent", "/bin/true"))
    done = subprocess.run(["systemd-analyze", *command, file], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = (PACKAGING / "microagent.service").read_text()
    verify = ("verify", "--man=no")
    assert systemd_says(unit, tmp_path, *verify) == (0, "")
    for right, wrong in (("RestrictRealtime", "RestrictRealTime"), ("@clock", "@clok")):
        assert wrong in systemd_says(unit.replace(right, wrong), tmp_path, *verify)[1]


def test_the_unit_is_not_more_exposed_than_it_must_be(tmp_path: Path) -> None:
    """By systemd's own measure, 0 to 100; what is left is what makes namespaces, taps and processes of other users."""
    unit = (PACKAGING / "microagent.service").read_text()
    judge = ("security", "--offline=true", "--threshold=61", "--no-pager")
    assert systemd_says(unit, tmp_path, *judge)[0] == 0
    for key in ("SystemCallFilter", "DevicePolicy", "NoNewPrivileges", "RestrictNamespaces", "RestrictAddressFamilies"):
        without = re.sub(f"^{key}=.*$", "", unit, flags=re.MULTILINE)
        assert systemd_says(without, tmp_path, *judge)[0] != 0, key


def test_the_example_configuration_is_one(tmp_path: Path) -> None:
    text = (PACKAGING / "agent.yaml").read_text()
    load(PACKAGING / "agent.yaml")
    written = tmp_path / "agent.yaml"
    written.write_text(re.sub(r"^#(?=\w|  )", "", text, flags=re.MULTILINE))
    assert load(written).limits.connections == 1024
    assert load(written).private
