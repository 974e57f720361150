"""Plugins: discovery, isolation, validation; the typed interface over pluggy.

A broken plugin is recorded with its error and never stops the server, unless ``plugins.strict``.
"""

from mataserver.plugins.admission import HOOKS, PluginError
from mataserver.plugins.discovery import GROUP, discover
from mataserver.plugins.installed import Plugins
from mataserver.plugins.intake import refuse
from mataserver.plugins.offer import DISABLED, Offer, Plugin, log

__all__ = [
    "DISABLED",
    "GROUP",
    "HOOKS",
    "Offer",
    "Plugin",
    "PluginError",
    "Plugins",
    "discover",
    "log",
    "refuse",
]
