"""Which addresses are somewhere on the Internet, and which are those that people give their own machines."""

from __future__ import annotations

import ipaddress

__all__ = ["is_private", "is_public"]

_NOT_PUBLIC = ("fec0::/10", "64:ff9b:1::/48", "::ffff:0:0:0/96", "168.63.129.16/32")
"""What `ipaddress` takes for public: site-local (RFC 3879), local NAT64 (RFC 8215), translated IPv4 (RFC 2765), and the
address at which virtual machines in Azure find their host."""
_NAT64 = 0x64FF9B << 64
"""The upper bits of 64:ff9b::/96 (RFC 6052)."""


_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""Networks that anybody may number machines and containers from (RFC 1918, 4193), or a provider (RFC 6598)."""
_METADATA = ("100.100.100.200/32", "fd00:ec2::/32", "fd20:ce::254/128", "fd00:42::42/128")
"""Where clouds tell a machine its secrets, as far as that lies in one of these: Alibaba, AWS, Google, Scaleway."""


def is_private(text: str) -> bool:
    """Whether an address may be that of a machine or container of one's own network, beyond this machine."""
    address = ipaddress.ip_address(text)

    def lies_in(networks: tuple[str, ...]) -> bool:
        return any(address in ipaddress.ip_network(network) for network in networks)

    return lies_in(_PRIVATE) and not lies_in(_METADATA)


def is_public(text: str) -> bool:
    """Whether an address is somewhere on the Internet, and so are the IPv4 addresses that an IPv6 one may hide."""
    address = ipaddress.ip_address(text)
    hidden: list[ipaddress.IPv4Address | None] = []
    if isinstance(address, ipaddress.IPv6Address):
        hidden = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if int(address) >> 32 in (_NAT64, 0):
            hidden.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    parts = [address, *(part for part in hidden if part is not None)]
    return all(
        part.is_global
        and not part.is_multicast
        and not any(part in ipaddress.ip_network(network) for network in _NOT_PUBLIC)
        for part in parts
    )
