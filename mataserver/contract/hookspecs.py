"""The eight hooks of a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from msgspec import Struct

    from mataserver.contract.authentication import AuthContext
    from mataserver.contract.backend import Backend
    from mataserver.contract.engine import EngineSpec
    from mataserver.contract.service import Context, Service
    from mataserver.contract.sessions import CheckSession
    from mataserver.contract.source import SourceSpec

hookspec = pluggy.HookspecMarker("mataserver")
hookimpl = pluggy.HookimplMarker("mataserver")


@hookspec
def settings() -> type[Struct]:  # type: ignore[empty-body]
    """Return the struct type of ``plugins.<name>`` in the configuration. Pure."""


@hookspec
def backends() -> Iterable[Backend]:  # type: ignore[empty-body]
    """Return the backends. Pure: must not import a framework."""


@hookspec
def engines() -> Iterable[EngineSpec]:  # type: ignore[empty-body]
    """Return the engines, which start the workers of models. Pure."""


@hookspec
def sources() -> Iterable[SourceSpec]:  # type: ignore[empty-body]
    """Return the sources, which models are pulled from. Pure."""


@hookspec
def brings() -> Mapping[str, Iterable[str]]:  # type: ignore[empty-body]
    """Return the names that the plugin's service provides to other plugins, by plugin.

    No other plugin may provide the same name to that plugin. Pure.
    """


@hookspec
def auth_mode(ctx: AuthContext) -> str | None:
    """Return "none" to let the server answer everybody, None to leave it as the settings say.

    Raises ``ConfigError`` with the reason why the server must not start. Pure.
    """


@hookspec
def check(settings: Any, session: CheckSession) -> Iterable[str]:  # type: ignore[empty-body]
    """Return errors in the plugin's settings beyond their types, a sentence each.

    For ``mataserver check``: must not start or change anything.
    """


@hookspec
def service(ctx: Context) -> Service:  # type: ignore[empty-body]
    """Return the plugin's service: routes, startup, shutdown."""
