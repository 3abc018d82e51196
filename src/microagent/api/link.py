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
UDP_PORT = 4001
DNS_PORT = 4053
NFLOG_GROUP = 1

# No host: packets to it are notes from the mediator to the rules (steer.nft, chain notes). The note's source is the
# refused destination, its destination port says what to do with it.
NOTE_ADDRESS = IPv4Address("127.0.0.9")
NOTE_REFUSED = 1
NOTE_REFUSED_NO_MORE = 2
