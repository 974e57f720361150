"""``AUTH_ENABLED=false``, a variable of the plugin ``accounts``: everybody is answered.

Where it is set and not in force, a server with the plugin does not start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mataserver.config.addresses import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.config.settings import Settings

VARIABLE = "AUTH_ENABLED"
_NAMES = {"accounts", "mataserver-accounts"}
_FALSE, _TRUE = {"0", "false", "no", "off"}, {"1", "true", "yes", "on"}


def applies(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether it makes ``auth_mode`` "none", where no source of the settings gives one.

    Only if nobody on another machine reaches the server, by its address or through a proxy, and no
    key is configured: a leftover variable must not open that.
    """
    return _word(environ) in _FALSE and _obstacle(settings) is None and _has_accounts(settings)


def contradiction(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return why a server does not start with the variable, None if it does."""
    word, anybody = _word(environ), settings.auth_mode == "none"
    if not word or not _has_accounts(settings):
        return None
    if word not in _FALSE | _TRUE:
        return f"environment: {VARIABLE}: must be true or false"
    if word in _TRUE and anybody:
        return f"environment: {VARIABLE}={word}: auth_mode is none, which does not authenticate"
    if word in _FALSE and not anybody:
        why = _obstacle(settings) or f"auth_mode is {settings.auth_mode}"
        return (
            f"environment: {VARIABLE}={word}: this server asks for keys and tokens, since {why}; "
            "set auth_mode: none if it shall answer everybody"
        )
    return None


def warning(
    settings: Settings, environ: Mapping[str, str], dotenv: Mapping[str, str]
) -> str | None:
    """Return a warning of the variable where it is in force, and in ``.env``, where it never is."""
    if _word(environ) in _FALSE and settings.auth_mode == "none":
        return f"{VARIABLE}=false: AUTHENTICATION IS OFF, everybody is answered"
    if VARIABLE in dotenv.keys() - environ.keys():
        return f".env: {VARIABLE} is ignored: it counts in the environment alone"
    return None


def _word(environ: Mapping[str, str]) -> str:
    return environ.get(VARIABLE, "").strip().lower()


def _obstacle(settings: Settings) -> str | None:
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
    return f"{'api_key is' if settings.api_key else 'api_keys are'} set" if settings.keys else None


def _has_accounts(settings: Settings) -> bool:
    import importlib.metadata  # slow, and most environments have no such variable

    disabled = settings.plugins.get("disabled", [])
    if not isinstance(disabled, list) or any(name in _NAMES for name in disabled):
        return False
    return bool(importlib.metadata.entry_points(group="mataserver", name="accounts"))
