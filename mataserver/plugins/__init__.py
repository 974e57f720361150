"""Plugins: discovery, isolation, validation; the typed interface over pluggy.

A broken plugin is recorded with its error and never stops the server, unless ``plugins.strict``.
"""

from mataserver.plugins.auth_mode import settle_auth_mode
from mataserver.plugins.discovery import check_settings, discover
from mataserver.plugins.installed import GROUP, Plugins
from mataserver.plugins.loading import reject, rejecting
from mataserver.plugins.records import DISABLED, Plugin, ProvidedBackend, log
from mataserver.plugins.validation import HOOKS, PluginError

__all__ = [
    "DISABLED",
    "GROUP",
    "HOOKS",
    "Plugin",
    "PluginError",
    "Plugins",
    "ProvidedBackend",
    "check_settings",
    "discover",
    "log",
    "reject",
    "rejecting",
    "settle_auth_mode",
]
