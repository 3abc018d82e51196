"""Checks by doing, and nothing of them left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from microagent.doctor.checks import examine
from microagent.doctor.finding import Finding


@pytest.mark.parametrize(
    ("finding", "word"),
    [
        (Finding("a", ok=True, detail=""), "ok"),
        (Finding("a", ok=False, detail=""), "missing"),
        (Finding("a", ok=False, detail="", required=False), "absent"),
    ],
)
def test_results(finding: Finding, word: str) -> None:
    assert finding.result == word


def test_missing_guest_files_have_a_fix(tmp_path: Path) -> None:
    found = {finding.name: finding for finding in examine(tmp_path)}
    assert not found["guest files"].ok
    assert str(tmp_path) in found["guest files"].fix


@pytest.mark.kernel
def test_kernel_objects_are_made_and_removed() -> None:
    mounts = Path("/proc/mounts").read_text().count("microagent-doctor-")
    found = {finding.name: finding for finding in examine()}
    assert all(found[name].ok for name in ("python", "root", "nft bindings", "tap", "steering", "confinement"))
    assert Path("/proc/mounts").read_text().count("microagent-doctor-") == mounts


@pytest.mark.kernel
def test_a_machine_without_landlock_or_seccomp_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the bindings are not installed."""
    (tmp_path / "seccomp.py").write_text("raise ModuleNotFoundError(\"No module named 'seccomp'\")")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), *filter(None, sys.path))))
    found = {finding.name: finding for finding in examine()}
    assert (found["confinement"].ok, found["confinement"].result) == (False, "missing")
    assert "python3-seccomp" in found["confinement"].fix


@pytest.mark.kernel
def test_cgroups_are_made_and_removed_or_said_to_be_absent() -> None:
    found = {finding.name: finding for finding in examine()}
    assert found["cgroups"].ok or found["cgroups"].result == "absent"
    assert found["cgroups"].ok or found["cgroups"].detail.startswith("cgroup v2")
    assert not list(Path("/sys/fs/cgroup").glob("**/microagent-doctor-*"))


@pytest.mark.kernel
def test_what_is_missing_is_exit_3(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "microagent.cli", "--json", "doctor", "--guest-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": os.defpath})
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"]) == (3, False)
    assert {check["name"] for check in answer["checks"] if not check["ok"] and check["required"]} == {"guest files"}
