"""Well-known public resolvers: asking one is no reason to deny, but worth a signal (contract 6, 10).

From the operators' own pages: Google, Cloudflare, Quad9, OpenDNS, AdGuard, CleanBrowsing, NextDNS, Mullvad, Control D.
Not complete and not a wall: whoever needs a wall uses strict mode.
"""

from ipaddress import ip_address
from typing import Final

from microagent.policy.addresses import Address

PUBLIC_RESOLVERS: Final[frozenset[Address]] = frozenset(
    map(
        ip_address,
        (
            "8.8.8.8",
            "8.8.4.4",
            "2001:4860:4860::8888",
            "2001:4860:4860::8844",
            "1.1.1.1",
            "1.0.0.1",
            "1.1.1.2",
            "1.0.0.2",
            "1.1.1.3",
            "1.0.0.3",
            "2606:4700:4700::1111",
            "2606:4700:4700::1001",
            "9.9.9.9",
            "149.112.112.112",
            "9.9.9.10",
            "9.9.9.11",
            "2620:fe::fe",
            "2620:fe::9",
            "208.67.222.222",
            "208.67.220.220",
            "94.140.14.14",
            "94.140.15.15",
            "185.228.168.9",
            "185.228.169.9",
            "45.90.28.0",
            "45.90.30.0",
            "194.242.2.2",
            "76.76.2.0",
            "76.76.10.0",
        ),
    )
)

DNS_OVER_HTTPS_HOSTS: Final = frozenset(
    {
        "dns.google",
        "dns.google.com",
        "cloudflare-dns.com",
        "chrome.cloudflare-dns.com",
        "mozilla.cloudflare-dns.com",
        "security.cloudflare-dns.com",
        "family.cloudflare-dns.com",
        "one.one.one.one",
        "1dot1dot1dot1.cloudflare-dns.com",
        "dns.quad9.net",
        "dns9.quad9.net",
        "dns10.quad9.net",
        "dns11.quad9.net",
        "doh.opendns.com",
        "doh.familyshield.opendns.com",
        "dns.adguard-dns.com",
        "dns.adguard.com",
        "doh.cleanbrowsing.org",
        "dns.nextdns.io",
        "dns.mullvad.net",
        "freedns.controld.com",
    }
)
