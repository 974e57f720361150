"""The settings, for the operator: each with value and origin, without secrets."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mataserver import config
from mataserver.config import SetBy, Settings
from mataserver.http import codec
from mataserver.http.request_credentials import check_query
from mataserver.http.routing import Body, Route, StatelessService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aiohttp import web

    from mataserver.plugins import Plugin, Plugins

REDACTED = "***"
_SECRET = re.compile(
    r"(^|_)(api_?keys?|keys?|token|secrets?|password|passwd|credentials?)(_|$)", re.IGNORECASE
)
_USER = re.compile(r"(?<=://)[^/\s]*@")
_CAMERA = re.compile(r"^([a-z]+://)([^/?#]*@)?([^/?#]*).*", re.DOTALL)
"""A camera's address: path and query may be secret, like the user."""
_QUERY = re.compile(
    r"(?<=[?&;])([^=&#;]*(?:key|token|pass|pwd|secret|sig|auth)[^=&#;]*)=[^&#;\s]+", re.IGNORECASE
)


class SettingInfo(Struct, kw_only=True):
    """One setting.

    name:     as in YAML, ``plugins.NAME.FIELD`` of a plugin.
    value:    the effective value; ``***`` replaces secrets.
    origin:   the source of the value.
    redacted: true if a secret was replaced.
    """

    name: str
    value: Any
    origin: SetBy
    redacted: bool | UnsetType = UNSET


class SettingsService(StatelessService):
    """Lists the current settings, which a reload may have changed."""

    def __init__(
        self, settings: Callable[[], Settings], set_by: Mapping[str, SetBy], plugins: Plugins
    ) -> None:
        self._settings = settings
        self._set_by = set_by
        self._plugins = plugins

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/v1/settings", self._list, "Every setting, and where it came from",
                  "server", response=(Body(codec.JSON, list[SettingInfo]),), errors=(422,),
                  needs="admin"),
        ]  # fmt: skip

    async def _list(self, request: web.Request) -> web.Response:
        check_query(request, ())
        return codec.respond(list_settings(self._settings(), self._set_by, self._plugins))


def list_settings(
    settings: Settings, set_by: Mapping[str, SetBy], plugins: Plugins
) -> list[SettingInfo]:
    """Return every setting of the server, then those of its plugins."""
    return [
        *_server_settings(settings, set_by),
        *_plugin_switches(settings),
        *_plugin_settings(settings, plugins),
    ]


def _server_settings(settings: Settings, set_by: Mapping[str, SetBy]) -> Iterator[SettingInfo]:
    default = Settings()
    for name in settings.__struct_fields__:
        if name == "plugins":
            continue
        value = getattr(settings, name)
        origin = set_by.get(name, "default")
        if name in config.STRUCTURED:  # reloadable, from YAML only
            origin = "default" if value == getattr(default, name) else set_by.get(name, "yaml")
        yield _info(name, value, origin)


def _plugin_switches(settings: Settings) -> Iterator[SettingInfo]:
    for name, default in (("strict", False), ("disabled", [])):
        given = name in settings.plugins
        value = settings.plugins.get(name, default)
        yield _info(f"plugins.{name}", value, "yaml" if given else "default")


def _plugin_settings(settings: Settings, plugins: Plugins) -> Iterator[SettingInfo]:
    for section, plugin in _sections(settings, plugins).items():
        given = settings.plugins.get(section)
        written = given if isinstance(given, dict) else {}
        if isinstance(plugin.settings, Struct):
            yield from _settings_of(section, plugin.settings, written)
        else:  # a plugin that is not in use does not declare its secrets
            for name in written:
                yield SettingInfo(
                    name=f"plugins.{section}.{name}", value=REDACTED, origin="yaml", redacted=True
                )


def _sections(settings: Settings, plugins: Plugins) -> dict[str, Plugin]:
    """Return one plugin for each settings section; of several that share it, one with settings."""
    found: dict[str, Plugin] = {}
    for plugin in plugins.found:
        section = plugin.section
        if plugin.settings is None and section not in settings.plugins:
            section = plugin.family  # not imported: what it shares with others
        if section not in found or found[section].settings is None:
            found[section] = plugin
    return found


def _settings_of(
    section: str, settings: Struct, written: Mapping[str, Any]
) -> Iterator[SettingInfo]:
    for field in msgspec.structs.fields(type(settings)):
        value = getattr(settings, field.name)
        extra = config.meta_extra(field.type)
        origin: SetBy
        if str(extra.get("environment", "")) in os.environ:
            origin = "environment"
        elif field.name in written and value == _converted(written[field.name], field.type):
            origin = "yaml"
        else:
            origin = "default" if value == _default(field) else "dotenv"
        name = f"plugins.{section}.{field.name}"
        yield _info(name, value, origin, secret=bool(extra.get("secret")))


def _converted(written: Any, kind: Any) -> Any:
    """Return a written value as its setting has it: with the defaults of what it leaves out."""
    try:
        return msgspec.convert(written, kind)
    except msgspec.ValidationError:
        return written


def _default(field: msgspec.structs.FieldInfo) -> Any:
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()


def _info(name: str, value: Any, origin: SetBy, *, secret: bool = False) -> SettingInfo:
    plain = msgspec.to_builtins(value)
    shown = _redact(plain) if secret else _redact_secrets(plain, name.rpartition(".")[2])
    redacted = True if shown != plain else UNSET
    return SettingInfo(name=name, value=shown, origin=origin, redacted=redacted)


def _redact_secrets(value: Any, name: str) -> Any:
    """Return a value without secrets: fields with such names, and credentials in addresses."""
    if isinstance(value, dict):
        return {key: _redact_secrets(each, str(key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_redact_secrets(each, name) for each in value]
    if not isinstance(value, str):
        return value
    if _SECRET.search(name):
        return _redact(value)
    if name == "source":
        return _CAMERA.sub(rf"\1\3/{REDACTED}", value)
    return _QUERY.sub(rf"\1={REDACTED}", _USER.sub(f"{REDACTED}@", value))


def _redact(value: Any) -> Any:
    """Return the placeholder of a secret: only whether it is set."""
    return REDACTED if value else value
