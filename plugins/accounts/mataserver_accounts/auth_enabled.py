"""``AUTH_ENABLED``: the variable by which the environment asks for no authentication."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import ConfigError

if TYPE_CHECKING:
    from mataserver import AuthContext

VARIABLE = "AUTH_ENABLED"
_FALSE, _TRUE = {"0", "false", "no", "off"}, {"1", "true", "yes", "on"}


def answered_mode(ctx: AuthContext) -> str | None:
    """Return "none" for ``AUTH_ENABLED=false`` of the environment, None without the variable.

    Raises ``ConfigError`` where it is not in force: a leftover variable must not open a server that
    others reach, and one that was meant must not be ignored.
    """
    if VARIABLE in ctx.dotenv.keys() - ctx.environ.keys():
        ctx.warn(f".env: {VARIABLE} is ignored: it counts in the environment alone")
    word = ctx.environ.get(VARIABLE, "").strip().lower()
    if word and word not in _FALSE | _TRUE:
        raise ConfigError(f"environment: {VARIABLE}: must be true or false")
    if word in _TRUE and ctx.mode == "none":
        raise ConfigError(
            f"environment: {VARIABLE}={word}: auth_mode is none, which does not authenticate"
        )
    if word not in _FALSE:
        return None
    if ctx.obstacle is not None:
        raise ConfigError(
            f"environment: {VARIABLE}={word}: this server asks for keys and tokens, since "
            f"{ctx.obstacle}; set auth_mode: none if it shall answer everybody"
        )
    ctx.warn(f"{VARIABLE}=false: AUTHENTICATION IS OFF, everybody is answered")
    return "none"
