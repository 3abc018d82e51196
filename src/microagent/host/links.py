"""The interfaces of a workspace: lo, the tap, and the one route that brings every packet to a local socket."""

import fcntl
import os
import socket
import struct

from pyroute2 import IPRoute, NetlinkError

from microagent.api.link import GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, TAP
from microagent.errors import HostError

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_UP = 1  # netdevice(7)
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000  # lets QEMU hand over segments of up to 64 KiB instead of frames of 1500 bytes

# Settings of the namespace below /proc/sys/net, each with the reason it is not the kernel's default.
_SYSCTLS = {
    "ipv6": {
        # No IPv6 on either side: the guest has no address for it, and the host answers nothing.
        "conf/all/disable_ipv6": b"1",
        "conf/default/disable_ipv6": b"1",
    },
    "ipv4": {
        # With a local route for every address the kernel would answer ARP for every address.
        f"conf/{TAP}/arp_ignore": b"1",
        f"conf/{TAP}/arp_announce": b"2",
        # The guest's address is pinned below; nothing it says about ARP may change that.
        f"conf/{TAP}/arp_accept": b"0",
        # Nothing is forwarded, and the kernel tells the guest of no other way.
        "ip_forward": b"0",
        "conf/all/send_redirects": b"0",
        f"conf/{TAP}/send_redirects": b"0",
        f"conf/{TAP}/accept_redirects": b"0",
        f"conf/{TAP}/accept_source_route": b"0",
        # tproxy sends packets on to 127.0.0.1 sockets by socket lookup, not by address; loopback stays closed to
        # frames.
        f"conf/{TAP}/route_localnet": b"0",
        f"conf/{TAP}/rp_filter": b"1",
        # Every refusal is an ICMP of its own, and one a second for each guest would leave QUIC clients waiting.
        # steer.nft says how many there may be.
        "icmp_ratemask": b"0",
        "icmp_echo_ignore_broadcasts": b"1",
        # Pieces of a datagram cross memory, one right behind the other; the default is half a minute.
        "ipfrag_time": b"2",
    },
}


def make_tap() -> int:
    """Make the tap in the calling thread's namespace, down; returns the descriptor that QEMU will get.

    The tap lives as long as this descriptor or a copy of it: no guest, no interface.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", TAP.encode(), flags))
    except OSError:
        os.close(fd)
        raise
    return fd


def verify() -> None:
    """HostError unless the calling thread's namespace has a tap that is up, and no way out; sets the sysctls again.

    Tunnels that some kernels put into every namespace are there too, and down.
    """
    if TAP not in check_closed():
        raise HostError("its tap is gone or down")
    _set_sysctls()


def check_closed() -> set[str]:
    """The interfaces that are up; HostError when there are others than lo and the tap among them."""
    with IPRoute() as ip:
        up = {message.get_attr("IFLA_IFNAME") for message in ip.get_links() if message["flags"] & _IFF_UP}
    if up - {"lo", TAP}:
        raise HostError(f"its network has interfaces that are not ours: {', '.join(sorted(up - {'lo', TAP}))}")
    return up


def _set_sysctls() -> None:
    # All namespaces' `net/ipv4` are one chain in the kernel's cache of names, compared one by one at each look-up.
    for family, settings in _SYSCTLS.items():
        try:
            directory = os.open(f"/proc/sys/net/{family}", os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            if family == "ipv6":
                continue  # not in this kernel, or switched off on its command line (ipv6.disable=1)
            raise
        try:
            for name, value in settings.items():
                fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
                try:
                    os.write(fd, value)
                finally:
                    os.close(fd)
        finally:
            os.close(directory)


def configure() -> None:
    """Address, routes, neighbour and sysctls, in the calling thread's namespace; the tap stays down."""
    with IPRoute() as ip:
        lo, tap = socket.if_nametoindex("lo"), socket.if_nametoindex(TAP)
        ip.link("set", index=lo, state="up")
        ip.link("set", index=tap, address=GATEWAY_MAC)
        _set_sysctls()
        ip.addr("add", index=tap, address=str(GATEWAY.ip), prefixlen=GATEWAY.network.prefixlen)
        # Every address is local here, so that a tproxy socket can answer as any of them; nothing is routed on.
        ip.route("add", dst="0.0.0.0/0", oif=lo, type="local", scope="host")


def raise_tap() -> None:
    """Bring the tap up and pin the guest's address to its MAC."""
    with IPRoute() as ip:
        tap = socket.if_nametoindex(TAP)
        ip.link("set", index=tap, state="up")
        ip.neigh("replace", dst=str(GUEST.ip), lladdr=GUEST_MAC, ifindex=tap, state="permanent")


def take_tap_back(number: int) -> None:
    """Take the interface of this number down, and give it the tap's name; HostError when that cannot be."""
    with IPRoute() as ip:
        try:
            ip.link("set", index=number, state="down")
            ip.link("set", index=number, ifname=TAP)
        except NetlinkError as error:
            raise HostError("its tap was taken away") from error


def lower_tap() -> None:
    """Take the tap down: the guest is cut off, whatever the rules say."""
    with IPRoute() as ip:
        for tap in ip.link_lookup(ifname=TAP):
            ip.link("set", index=tap, state="down")


def host_addresses() -> frozenset[str]:
    """Every IPv4 and IPv6 address of the namespace the caller is in, for "any address of the host itself"."""
    with IPRoute() as ip:
        # IFA_ADDRESS is the peer's where a link has two ends (rtnetlink(7)); IPv6 has IFA_LOCAL only there.
        own = (message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in ip.get_addr())
        return frozenset(map(str, own))
