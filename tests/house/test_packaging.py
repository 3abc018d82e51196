"""What `make install` puts on a machine fits the agent."""

import re
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


def test_the_example_configuration_is_one(tmp_path: Path) -> None:
    text = (PACKAGING / "agent.yaml").read_text()
    load(PACKAGING / "agent.yaml")
    written = tmp_path / "agent.yaml"
    written.write_text(re.sub(r"^#(?=\w|  )", "", text, flags=re.MULTILINE))
    assert load(written).limits.connections == 1024
    assert load(written).private
