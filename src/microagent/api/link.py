"""The wire between a guest and its workspace: the same in every workspace, since each has its own netns."""

from ipaddress import IPv4Address, IPv4Interface

TAP = "tap0"
GUEST = IPv4Interface("10.43.0.2/30")
GATEWAY = IPv4Interface("10.43.0.1/30")
GUEST_MAC = "02:00:0a:2b:00:02"
GATEWAY_MAC = "02:00:0a:2b:00:01"

# Where the mediator's sockets listen inside the workspace's netns; steer.nft names the same numbers.
LISTEN_ADDRESS = IPv4Address("127.0.0.1")
TCP_PORT = 4000
DNS_PORT = 4053
NFLOG_GROUP = 1
