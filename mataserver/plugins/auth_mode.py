"""Whether a server authenticates: what its settings say, and plugins that may answer for them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from mataserver import config
from mataserver.config.addresses import is_loopback
from mataserver.contract.authentication import AuthContext
from mataserver.plugins.loading import rejecting
from mataserver.plugins.validation import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from mataserver.config import SetBy, Settings
    from mataserver.plugins.installed import Plugins
    from mataserver.plugins.records import Plugin

log = logging.getLogger("mataserver")


def _rejecting(plugin: Plugin) -> AbstractContextManager[None]:
    return rejecting(plugin, unless=(config.ConfigError,))


def settle_auth_mode(
    settings: Settings,
    set_by: Mapping[str, SetBy] | None,
    plugins: Plugins,
    environ: Mapping[str, str] | None = None,
    warn: Callable[[str], None] = log.warning,
    guard: Callable[[Plugin], AbstractContextManager[None]] = _rejecting,
) -> tuple[Settings, Mapping[str, SetBy]]:
    """Return the settings with the ``auth_mode`` of a plugin that answers, and their origins.

    Without ``set_by``, the settings' origins, ``auth_mode`` counts as given. ``environ`` replaces
    the environment, also ``.env``; ``guard`` what becomes of a plugin's error. Raises
    ``ConfigError`` if a plugin refuses the settings.
    """
    asked = [plugin for plugin in plugins.usable if "auth_mode" in plugin.hooks]
    origins = set_by or {}
    if not asked:
        return settings, origins
    mode = settings.auth_mode if set_by is None or "auth_mode" in set_by else None
    context = AuthContext(
        mode=mode,
        obstacle=None if mode == "none" else _obstacle(settings, mode),
        environ=os.environ if environ is None else environ,
        dotenv=config.dotenv(Path.cwd()) if environ is None else {},
        warn=warn,
    )
    for plugin in asked:
        with guard(plugin):
            answer = plugin.hooks["auth_mode"](context)
            _check_answer(answer, context)
            if answer is not None and mode is None:
                settings = msgspec.structs.replace(settings, auth_mode=answer)
                origins = {**origins, "auth_mode": "environment"}
    return settings, origins


def _check_answer(answer: object, context: AuthContext) -> None:
    """Raise ``PluginError`` unless it is one of the hook's, and the settings allow it."""
    if answer is not None and answer != "none":
        raise PluginError(f"auth_mode() must return None or 'none', not {answer!r}")
    if answer == "none" and context.obstacle is not None:
        raise PluginError(f"auth_mode() gave 'none', and {context.obstacle}")


def _obstacle(settings: Settings, mode: str | None) -> str | None:
    """Return which setting says that others reach the server, or that it is to ask."""
    if not is_loopback(settings.host):
        return f"host is {settings.host}"
    if settings.trust_proxy:
        return "trust_proxy is true"
    address = settings.frontend_address
    if address is not None and not is_loopback(urlsplit(address).hostname or ""):
        return f"frontend_address is {address}"
    for name in settings.allowed_hosts:
        if not is_loopback(name):
            return f"allowed_hosts has {name}"
    if settings.keys:
        return f"{'api_key is' if settings.api_key else 'api_keys are'} set"
    return None if mode is None else f"auth_mode is {mode}"
