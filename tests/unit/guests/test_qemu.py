from pathlib import Path

import pytest

from microagent.errors import HostError
from microagent.guests.accelerator import Accelerator, find_accelerator, measure_tsc_khz, runs_instructions
from microagent.guests.console import MAX_FILE, Console
from microagent.guests.qemu import Descriptors, GuestSpec, kernel_command_line, qemu_arguments

NOBODY = 65534
FDS = Descriptors(kernel=10, initramfs=11, rootfs=12, overlay=13, bootdisk=14, console=15, ports=(16, 17, 18, 19, 21))


def spec(tap: int | None = 20) -> GuestSpec:
    here = Path("/nowhere")
    return GuestSpec(here, here, here, here, b"", tap, "02:00:0a:2b:00:02", 512, 2, NOBODY, NOBODY, here, here)


def test_the_command_line_names_descriptors_and_no_path_of_the_workspace() -> None:
    arguments = qemu_arguments(spec(), Accelerator(kvm=False, tsc_khz=2_000_000), FDS)
    assert "/nowhere" not in " ".join(arguments)
    assert {f"fd={n},set={s}" for n, s in ((12, 1), (13, 2), (14, 3))} <= set(arguments)
    assert "tap,id=net,fd=20" in arguments
    assert arguments[arguments.index("-sandbox") + 1].startswith("on,")
    writable = [a for a in arguments if a.startswith("driver=") and "read-only=on" not in a]
    assert [a for a in writable if "node-name=overlay" not in a] == []


def test_without_a_tap_there_is_no_network_card() -> None:
    assert "net" not in " ".join(qemu_arguments(spec(None), Accelerator(kvm=True, tsc_khz=0), FDS))


def test_only_an_emulated_kernel_is_told_its_clock() -> None:
    assert "tsc_early_khz=2000000" in kernel_command_line(Accelerator(kvm=False, tsc_khz=2_000_000))
    assert "tsc" not in kernel_command_line(Accelerator(kvm=True, tsc_khz=0))


def test_the_probe_tells_running_from_not_running() -> None:
    assert runs_instructions("tcg", NOBODY, NOBODY)
    assert not runs_instructions("no-such-accelerator", NOBODY, NOBODY)
    assert find_accelerator(NOBODY, NOBODY).kvm == runs_instructions("kvm", NOBODY, NOBODY)


def test_the_clock_is_measured_alike_twice() -> None:
    first, second = measure_tsc_khz(), measure_tsc_khz()
    assert first == pytest.approx(second, rel=1e-3)
    assert 100_000 < first < 10_000_000


def test_a_console_is_bounded_and_its_end_remembered(tmp_path: Path) -> None:
    console = Console(tmp_path)
    for _ in range(3):
        console.add(b"x" * (MAX_FILE // 2))
    console.add(b"\r\n\r\nlast\x1b[2J but one\r\nthe last\r\n")
    console.close()
    assert (tmp_path / "console.log").stat().st_size == MAX_FILE
    assert console.last_lines(2) == "last.[2J but one | the last"


def test_a_console_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "console.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError):
        Console(tmp_path)
    assert not (tmp_path / "elsewhere").exists()
