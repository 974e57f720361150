"""Requests to user-supplied addresses (webhooks, videos, other servers), under one policy.

A client must not reach the server's own network through the server (server-side request forgery,
OWASP API7:2023): only public addresses are permitted, and those of the setting ``outbound_hosts``.
"""

from mataserver.outbound.client import Outbound, Policy, Response
from mataserver.outbound.hosts import ANY, AddressRefused, Hosts, is_public

__all__ = ["ANY", "AddressRefused", "Hosts", "Outbound", "Policy", "Response", "is_public"]
