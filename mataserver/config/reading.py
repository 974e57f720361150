"""Reads the settings, strictly. Precedence: environment, ``.env``, YAML, defaults.

Each error names its key.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.config import consistency, moved
from mataserver.config.settings import ConfigError, Settings
from mataserver.params.text_values import from_text
from mataserver.params.wording import describe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import yaml
    from msgspec import Struct

    from mataserver.config.settings import SetBy

PREFIX = "MATA_SERVER_"
DEFAULT_FILE = "mataserver.yaml"

STRUCTURED = frozenset({"models", "plugins"})
"""Settings that no environment variable can set."""
_UNQUOTED = re.compile(r"\b(alias|anchor|tag|tag handle) (['\"]).*\2")
"""What YAML takes for a name of its own; it may be a password."""
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_ALIASES = {"host": "SERVER_HOST", "port": "SERVER_PORT"}
"""Variables of the SAM3 inference API, used where ours are not set."""


def load(file: str | Path | None = None, **options: Any) -> Settings:
    """Return the settings: see ``read``."""
    return read(file, **options)[0]


def read(
    file: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    **overrides: object,
) -> tuple[Settings, dict[str, SetBy]]:
    """Read the settings; return them, and the origin of each that was given.

    ``file`` is the YAML file; without it ``MATA_SERVER_CONFIG``, then ``mataserver.yaml`` in
    ``directory`` (default: the working directory), then none. ``overrides`` (command-line options)
    take precedence over everything; None means "not given". Raises ``ConfigError``.
    """
    folder = Path.cwd() if directory is None else directory
    values = variables(folder, environ)
    written, found = _yaml(find(file, values, folder)), _environment(values)
    options = {k: v for k, v in overrides.items() if v is not None}
    _check_overridden(written, found | options, Settings, "")
    origins: dict[str, SetBy] = dict.fromkeys(written, "yaml")
    environment = os.environ if environ is None else environ
    for name in found:
        origins[name] = "environment" if _variable(name, values) in environment else "dotenv"
    origins.update(dict.fromkeys(options, "option"))
    return _settings(moved.apply_moves(written) | found | options), origins


def _check_overridden(
    written: Mapping[str, Any], given: Mapping[str, Any], kind: type[Struct], root: str
) -> None:
    """Raise ``ConfigError`` for an invalid value in YAML, even if it is overridden.

    Otherwise removing the override would make the next start fail.
    """
    for setting in msgspec.structs.fields(kind):
        if setting.name in written and setting.name in given:
            place = f"{root}.{setting.name}".lstrip(".")
            with _config_errors("configuration", place, setting.type):
                msgspec.convert(written[setting.name], setting.type)


def variables(directory: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment's variables, over those of ``.env`` in ``directory``."""
    return {**dotenv(directory), **(os.environ if environ is None else environ)}


def _settings(merged: dict[str, Any]) -> Settings:
    with _config_errors("configuration", "", Settings):
        settings = msgspec.convert(merged, Settings)
    consistency.check(settings)
    moved.warn_of_runtime([settings.runtime, *(entry.runtime for entry in settings.models)])
    return settings


def find(file: str | Path | None, values: Mapping[str, str], folder: Path) -> Path | None:
    """Return the YAML file that ``load`` reads, or None. Raises ``ConfigError`` if missing."""
    named = file or values.get(PREFIX + "CONFIG")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise ConfigError(f"configuration: no such file: {named}")
        return path
    default = folder / DEFAULT_FILE
    return default if default.is_file() else None


def _yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _check_nodes(node, "", set(), text)
        content = None if node is None else loader.construct_document(node)
    except RecursionError:
        raise ConfigError(f"configuration: {path.name} is nested too deeply") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        for mark in (getattr(error, "context_mark", None), getattr(error, "problem_mark", None)):
            if mark is not None:
                mark.buffer = None  # no excerpt with a caret below: an error is one line
        message = str(error).replace('in "<unicode string>", line', "at line")
        message = _UNQUOTED.sub(r"\1 (a text that begins with &, * or ! needs quotes)", message)
        raise ConfigError(f"configuration: {path.name} cannot be read: {message}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"configuration: {path.name} must hold a mapping of setting names")
    return content


def _check_nodes(node: yaml.Node | None, where: str, seen: set[int], text: str) -> None:
    """Raise ``ConfigError`` for what YAML would read as something else than is meant.

    Of a duplicate key in a mapping it would keep the last.
    """
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node.value, str):
        if problem := _scalar_problem(node, text):
            raise ConfigError(f"configuration: {where.lstrip('.') or 'the document'}: {problem}")
        return
    names: set[str] = set()
    for index, item in enumerate(node.value):
        key, value = item if isinstance(item, tuple) else (None, item)
        name = f"[{index}]" if key is None else f".{key.value}"
        if name in names:
            raise ConfigError(f"configuration: {(where + name).lstrip('.')}: given twice")
        names.add(name)
        _check_nodes(value, where + name, seen, text)


def _scalar_problem(node: yaml.Node, text: str) -> str:
    """Return what is wrong with a value without repeating it: it may be a password."""
    is_number = node.tag.endswith((":int", ":float"))
    if is_number and (":" in node.value or _OCTAL.fullmatch(node.value)):
        return (
            "YAML reads numbers like 010 as octal, and like 1:30 to the base of 60, so as 8 and "
            "90; write a decimal number, or quotes around a text"
        )
    written = text[node.start_mark.index : node.end_mark.index]
    if not node.value and written[:1] == "&" and written[-1] not in "\"'":
        return "it has no value (a text that begins with & needs quotes)"
    return ""


def dotenv(folder: Path) -> dict[str, str]:
    """Return the variables of ``.env`` in ``folder``; none without such a file."""
    path = folder / ".env"
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    try:
        found = dotenv_values(path)
    except (OSError, UnicodeDecodeError):
        raise ConfigError("configuration: .env cannot be read: it must be UTF-8 text") from None
    return {key: value for key, value in found.items() if value is not None}


def _environment(values: Mapping[str, str]) -> dict[str, Any]:
    return {
        setting.name: _from_variable(_variable(setting.name, values), values, setting.type)
        for setting in msgspec.structs.fields(Settings)
        if setting.name not in STRUCTURED and _variable(setting.name, values) in values
    }


def _from_variable(name: str, values: Mapping[str, str], kind: Any) -> Any:
    """Return a variable's value as ``kind``. Raises ``ConfigError``."""
    with _config_errors(f"environment: {name}", "", kind):
        return _from_text(values[name], kind)


@contextlib.contextmanager
def _config_errors(where: str, place: str, kind: Any) -> Iterator[None]:
    """Convert the validation error of a ``kind`` to ``ConfigError``."""
    try:
        yield
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {describe(error, place, kind)}") from None


def _variable(setting: str, values: Mapping[str, str]) -> str:
    """Return the name of the variable that applies to a setting."""
    name = PREFIX + setting.upper()
    return name if name in values else _ALIASES.get(setting, name)


def _from_text(text: str, kind: object) -> Any:
    plain = getattr(kind, "__origin__", None)
    if list in {plain, getattr(plain, "__origin__", None)}:  # also of ``Annotated``
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return msgspec.convert(parts, kind)
    return from_text(text, kind)


def plugin_settings(
    given: object, kind: type[Struct], plugin: str, environ: Mapping[str, str] | None = None
) -> Struct:
    """Decode ``plugins.<plugin>`` strictly. Raises ``ConfigError`` naming the key.

    A field with ``Meta(extra={"environment": NAME})`` takes its value from that variable, if it is
    set.
    """
    values = {} if given is None else given
    found = _from_declared_variables(kind, environ or {})
    if isinstance(values, dict):
        _check_overridden(values, found, kind, f"plugins.{plugin}")
        values = {**values, **found}
    with _config_errors("configuration", f"plugins.{plugin}", kind):
        return msgspec.convert(values, kind)


def _from_declared_variables(kind: type[Struct], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return a plugin's settings that are given by their own environment variables."""
    named = {
        str(meta_extra(setting.type).get("environment", "")): setting
        for setting in msgspec.structs.fields(kind)
    }
    return {
        setting.name: _from_variable(name, environ, setting.type)
        for name, setting in named.items()
        if name in environ
    }


def meta_extra(kind: Any) -> dict[str, Any]:
    """Return the ``Meta(extra=...)`` of a plugin's setting, also of an optional one."""
    found: dict[str, Any] = {}
    for each in (kind, *getattr(kind, "__args__", ())):
        for meta in getattr(each, "__metadata__", ()):
            found.update(getattr(meta, "extra", None) or {})
    return found
