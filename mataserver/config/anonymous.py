"""``AUTH_ENABLED=false``, a variable of the plugin ``accounts``: everybody is answered.

Where it is set and not in force, the plugin refuses to start.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mataserver.config.addresses import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.config.settings import Settings

VARIABLE = "AUTH_ENABLED"
_NAMES = {"accounts", "mataserver-accounts"}
_FALSE, _TRUE = {"0", "false", "no", "off"}, {"1", "true", "yes", "on"}

log = logging.getLogger("mataserver")


def is_set(environ: Mapping[str, str]) -> bool:
    """Whether an environment has the variable, with a value that means no."""
    return environ.get(VARIABLE, "").strip().lower() in _FALSE


def applies(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether it makes ``auth_mode`` "none", where no source of the settings gives one.

    Only if nobody on another machine reaches the server, by its address or through a proxy: a
    leftover variable must not open that.
    """
    if not is_set(environ) or settings.trust_proxy or not is_loopback(settings.host):
        return False
    import importlib.metadata  # slow, and most environments have no such variable

    disabled = settings.plugins.get("disabled", [])
    if not isinstance(disabled, list) or any(name in _NAMES for name in disabled):
        return False
    return bool(importlib.metadata.entry_points(group="mataserver", name="accounts"))


def contradiction(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return why the plugin would refuse to start, None if it would not."""
    word, mode = environ.get(VARIABLE, "").strip().lower(), settings.auth_mode
    if word and word not in _FALSE | _TRUE:
        return f"environment: {VARIABLE}: must be true or false"
    if word and (word in _FALSE) != (mode == "none"):
        return (
            f"environment: {VARIABLE}={word}: the plugin accounts does not start with auth_mode "
            f"{mode}, host {settings.host} and trust_proxy {str(settings.trust_proxy).lower()}"
        )
    return None


def warn(settings: Settings, environ: Mapping[str, str], dotenv: Mapping[str, str]) -> None:
    """Warn of the variable where it is in force, and in ``.env``, where it never is."""
    if is_set(environ) and settings.auth_mode == "none":
        log.warning("%s=false: AUTHENTICATION IS OFF, everybody is answered", VARIABLE)
    elif VARIABLE in dotenv.keys() - environ.keys():
        log.warning(".env: %s is ignored: it counts in the environment alone", VARIABLE)
