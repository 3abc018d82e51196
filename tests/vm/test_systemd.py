"""microagent as `make install` leaves it: its unit under a real systemd, its groups under a real cgroup v2.

One machine serves all of it, with a workspace `w` whose guest asks for a name and connects to its address all the time.
In the end `make uninstall` takes everything away.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.vm.machine import CHECKOUT, Machine, booted, make_machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

LOG = "/var/lib/microagent/workspaces/w/egress.jsonl"
LEDGER = "/run/microagent/workspaces/w.json"
GROUPS = "/sys/fs/cgroup/microagent/w"

# An internet of one machine: it answers questions, and says again what it is told on port 7.
WORLD = """
ip link set lo up
ip netns add net
ip link add up0 type veth peer name eth0 netns net
ip addr add 198.51.100.1/24 dev up0
ip link set up0 up
ip -n net link set lo up
ip -n net addr add 203.0.113.10/32 dev lo
ip -n net addr add 198.51.100.53/24 dev eth0
ip -n net link set eth0 up
ip route add 203.0.113.0/24 via 198.51.100.53
echo nameserver 198.51.100.53 > /etc/resolv.conf
cat > /srv/net.py <<'END'
import asyncio
from microagent.demo import resolver

resolver._TTL = 3600

def record(*question):
    with open("/srv/asked", "a") as asked:
        print(*question, file=asked)

async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()

async def main():
    zone = {"api.ok.test": {"A": ["203.0.113.10"]}}
    await resolver.Resolver(zone, record).listen("198.51.100.53")
    await asyncio.start_server(echo, "203.0.113.10", 7)
    await asyncio.Event().wait()

asyncio.run(main())
END
systemd-run --quiet --unit net ip netns exec net /usr/local/lib/microagent/bin/python /srv/net.py
touch /srv/asked
"""
# udev would load the driver, and give the device to its group.
KVM = "modprobe kvm_amd; chgrp kvm /dev/kvm; chmod 660 /dev/kvm"
ASKING = "while :; do nslookup api.ok.test; echo hello | nc -w 5 203.0.113.10 7; sleep 1; done"
START = f"""
microagent create w --image docker-archive:/srv/tiny.tar --memory 128 --egress strict --egress-allow api.ok.test \
    -- sh -c '{ASKING}'
microagent start w
"""

# Each says what there is of microagent, one a line; nothing when there is none.
TRACES = {
    "files": "find / /run -xdev -iname '*microagent*' -not -path '/src/*'",
    "units": "systemctl list-units --all --plain --no-legend 'microagent*'",
    "groups": "find /sys/fs/cgroup -name '*microagent*'",
    "mounts": "grep microagent /proc/self/mountinfo || true",
    "processes": "grep -alE '[q]emu-system|/usr/local/lib/[m]icroagent' /proc/[0-9]*/cmdline || true",
    "users": "getent group microagent || true",
}


@pytest.fixture(scope="module")
def machine(guest_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine, with its workspace running; when all is done, it is uninstalled, and nothing may be left."""
    subprocess.run([CHECKOUT / "vm_fixtures/build", "--out", guest_dir, "--machine"], check=True)
    made = tmp_path_factory.mktemp("machine")
    make_machine(made, guest_dir)
    with booted(made, guest_dir) as machine:
        machine.run(KVM)
        machine.run(WORLD)
        assert "a guest instruction ran" in machine.run("microagent doctor")
        machine.run(START)
        goes_on(machine)
        yield machine
        machine.run("systemctl stop net")
        for what, script in TRACES.items():
            assert machine.run(script), what
        machine.run("make -C /src uninstall PURGE=1")
        assert {what: found for what, script in TRACES.items() if (found := machine.run(script))} == {}


def processes(machine: Machine) -> dict[str, int]:
    """The pids of the guest and of the mediator, as the agent has noted them."""
    return {role: pid for role, (pid, _) in json.loads(machine.run(f"cat {LEDGER}")).items()}


def records(machine: Machine) -> list[dict[str, Any]]:
    """All of the workspace's, without asking an agent."""
    return [json.loads(line) for line in machine.run(f"cat {LOG}").splitlines()]


def goes_on(machine: Machine) -> None:
    """The guest asks and connects, and is answered, now."""
    for event in ("egress_dns_allow", "egress_allow"):
        count = f'$(grep -c \'"event":"{event}"\' {LOG} || true)'
        before = int(machine.run(f"[ ! -e {LOG} ] || echo {count}") or 0)
        machine.wait_for(f"[ -e {LOG} ] && [ {count} -gt {before} ]")


def main_pid(machine: Machine) -> int:
    return int(machine.run("systemctl show --value -p MainPID microagent"))


def test_it_runs_under_its_hardening(machine: Machine) -> None:
    assert machine.run("systemctl is-enabled microagent; systemctl is-active microagent") == "enabled\nactive\n"
    assert machine.run("stat -c '%a %U %G' /run/microagent/agent.sock") == "660 root microagent\n"

    def confined(pid: int) -> dict[str, str]:
        lines = machine.run(f"cat /proc/{pid}/status").splitlines()
        return {key: value for line in lines for key, _, value in [line.partition(":\t")]}

    agent, init = confined(main_pid(machine)), confined(1)
    assert (agent["NoNewPrivs"], agent["Seccomp"]) == ("1", "2")
    assert (init["NoNewPrivs"], init["Seccomp"]) == ("0", "0")
    assert int(agent["CapBnd"], 16) < int(init["CapBnd"], 16)
    assert machine.run("microagent ps").splitlines()[1].split()[:3] == ["w", "running", "strict"]


def test_a_member_of_the_group_may_use_it(machine: Machine) -> None:
    machine.run("useradd alice; usermod -aG microagent alice; useradd bob")
    assert machine.run("runuser -u alice -- microagent ps").splitlines()[1].split()[:2] == ["w", "running"]
    assert machine.run("runuser -u bob -- cat /usr/local/lib/microagent/doc/operations.md")
    code, _, said = machine.ask("runuser -u bob -- microagent ps")
    assert (code, "error: " in said) == (1, True), said


def test_guest_and_mediator_are_bounded(machine: Machine) -> None:
    def bounds(role: str) -> list[str]:
        return machine.run(f"cd {GROUPS}/{role}; cat memory.max pids.max cpu.max").splitlines()

    assert bounds("guest") == [str((128 + 1536) << 20), "512", "100000 100000"]
    assert bounds("mediator") == [str(1536 << 20), "8", "100000 100000"]
    before = processes(machine)
    for role, pid in before.items():
        assert str(pid) in machine.run(f"cat {GROUPS}/{role}/cgroup.procs").split()

    def inside(role: str, command: str) -> int:
        """The exit code of a command of a shell's, in a group of the workspace's."""
        return machine.ask(f"echo $$ > {GROUPS}/{role}/cgroup.procs; {command}")[0]

    forks = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"
    assert machine.ask(forks)[0] == 0
    assert inside("mediator", forks) != 0

    def throttled(role: str) -> int:
        """How often two programs that are always busy had to wait."""
        busy = "timeout 1 sh -c 'while :; do :; done'"
        inside(role, f"{busy} & {busy} || true; wait")
        return int(machine.run(f"awk '/nr_throttled/ {{print $2}}' {GROUPS}/{role}/cpu.stat"))

    assert throttled("guest") > 0
    assert throttled("mediator") > 0

    much = "exec python3 -c 'bytearray(1600 << 20)'"
    assert machine.ask(much)[0] == 0
    assert processes(machine) == before
    assert inside("mediator", much) != 0
    # All of the group is ended, and the mediator replaced.
    machine.wait_for(f"! grep -q '\"mediator\": \\[{before['mediator']},' {LEDGER}")
    now = processes(machine)
    assert now["guest"] == before["guest"]
    assert machine.run(f"cat {GROUPS}/mediator/cgroup.procs").split() == [str(now["mediator"])]
    goes_on(machine)
    assert [r["event"] for r in records(machine)].count("gap") > 0


def test_guests_and_mediators_outlive_their_agents(machine: Machine) -> None:
    before, seen, agent = processes(machine), len(records(machine)), main_pid(machine)

    def is_untouched() -> None:
        goes_on(machine)
        assert processes(machine) == before
        for role, pid in before.items():
            assert machine.run(f"cat /proc/{pid}/cgroup") == f"0::/microagent/w/{role}\n"

    machine.run(f"kill -9 {agent}")
    is_untouched()
    active = "systemctl is-active microagent"
    machine.wait_for(f"{active} && [ $(systemctl show --value -p MainPID microagent) != {agent} ]")
    is_untouched()

    # What `systemctl restart` does, with a look in between.
    machine.run("systemctl stop microagent; systemctl daemon-reload")
    assert machine.ask(active)[1] == "inactive\n"
    assert machine.ask("ls /run/microagent/agent.sock /sys/fs/cgroup/system.slice/microagent.service")[1] == ""
    is_untouched()
    machine.run("systemctl restart microagent")
    is_untouched()
    status = json.loads(machine.run("microagent --json status w"))
    assert status["state"] == "running"
    assert {role: status[f"{role}_pid"] for role in before} == before
    assert not [r for r in records(machine)[seen:] if r["event"] in ("gap", "mediator_down", "mediator_up")]


def test_root_has_the_unit_started(machine: Machine) -> None:
    before = processes(machine)
    unit = "systemctl is-active microagent; cat /run/microagent/agent.lock"
    machine.run("systemctl stop microagent")
    code, output, errors = machine.ask("microagent --json ps")
    assert (code, json.loads(output)["workspaces"][0]["name"]) == (0, "w"), errors
    assert errors == "no agent was running: systemctl start microagent\n"
    assert machine.run(unit) == f"active\n{main_pid(machine)}\n"

    # What cleans /run has taken its socket away.
    machine.run("rm /run/microagent/agent.sock")
    code, _, errors = machine.ask("microagent ps")
    assert (code, errors.splitlines()[-1]) == (1, "hint: systemctl restart microagent: workspaces go on meanwhile")
    machine.run("systemctl restart microagent; microagent ps")
    assert processes(machine) == before

    machine.run("systemctl stop microagent; echo 'nonsense: 1' >> /etc/microagent/agent.yaml")
    code, _, errors = machine.ask("microagent ps")
    said = errors.splitlines()
    assert code == 1
    assert said[1].startswith("error: the agent did not start: Job for microagent.service failed ")
    assert said[2] == "hint: journalctl -u microagent"
    # systemd would try again by itself.
    machine.run("systemctl stop microagent; sed -i /nonsense/d /etc/microagent/agent.yaml")

    # One that somebody else has started gives way to the unit's.
    machine.run("systemd-run --quiet --unit other -p KillMode=process microagent agent")
    machine.wait_for("[ -S /run/microagent/agent.sock ]")
    other = machine.run("cat /run/microagent/agent.lock")
    assert other == machine.run("systemctl show --value -p MainPID other")
    assert machine.ask("systemctl start microagent")[0] == 1
    machine.run("/src/packaging/restart")
    assert machine.run(unit) == f"active\n{main_pid(machine)}\n"
    assert main_pid(machine) != int(other)
    assert processes(machine) == before
    goes_on(machine)


def test_a_clock_that_is_set_changes_no_decision(machine: Machine) -> None:
    ends = f"$(grep -c 'the end of a grant' {LOG} || true)"
    set_back = "date -s '10 hours ago'"
    goes_on(machine)
    asked, first = machine.run("grep -c 'api.ok.test A ' /srv/asked"), records(machine)[-1]
    # Hours forward: what is leased and remembered for an hour still is, and what was granted by the clock ends.
    assert machine.run(f"microagent policy allow w later.test --for 1h; echo {ends}").splitlines()[-1] == "0"
    machine.run("date -s '+5 hours'")
    goes_on(machine)
    machine.wait_for(f"[ {ends} = 1 ]")
    assert machine.run("grep -c 'api.ok.test A ' /srv/asked") == asked
    ahead = records(machine)[-1]
    # And back: a grant lasts no longer than it was given for.
    machine.run(f"microagent policy allow w later.test --for 10s; {set_back}")
    goes_on(machine)
    machine.wait_for(f"[ {ends} = 2 ]")
    assert machine.run("grep -c 'api.ok.test A ' /srv/asked") == asked
    back = records(machine)[-1]
    assert back["ts"] < first["ts"] < ahead["ts"]

    # Whoever looks after it still does.
    mediator = processes(machine)["mediator"]
    machine.run("nsenter --net=/run/microagent/netns/w nft flush ruleset")
    machine.wait_for("nsenter --net=/run/microagent/netns/w nft list ruleset | grep -q tproxy")
    machine.run(f"kill -9 {mediator}")
    machine.wait_for(f"! grep -q '\"mediator\": \\[{mediator},' {LEDGER}")
    goes_on(machine)
    machine.run("microagent audit verify w")
    written = records(machine)
    assert [record["seq"] for record in written] == list(range(1, len(written) + 1))
    machine.run("date -s '+5 hours'")
