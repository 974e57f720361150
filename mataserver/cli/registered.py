"""``mataserver list``, ``show`` and ``rm``: the registry, without a server."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import UNSET

from mataserver import config
from mataserver.cli.environment import UNKNOWN, config_option, discover, plugins
from mataserver.errors import NotFound
from mataserver.library import removal, weights
from mataserver.library.registry import Registry
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.config import Settings
    from mataserver.library.registry import Entry

RULE = 62
"""Minimum length of the dashed line."""

_HF_NOTE = "Note: model weights on disk (HF cache) were not deleted."
_PIP_NOTE = "Note: pip packages were not uninstalled. Remove manually if needed."
_PACKAGE = re.compile(r"[A-Za-z0-9._-]+")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
def list_models(*, as_json: bool, config_file: str | None) -> None:
    """List all registered models (alias: ls)."""
    entries = Registry(config.load(config_file).registry_path).entries()
    if as_json:
        click.echo(json.dumps([_as_json(*each) for each in entries.items()], indent=2))
    elif not entries:
        click.echo("No models registered.")
    else:
        _print_table(entries)


def _as_json(name: str, entry: Entry) -> dict[str, Any]:
    """Return a model as JSON: sizes in bytes, times in Unix seconds, null if unknown."""
    return {
        "model": name,
        "task": entry.task,
        "source": entry.source,
        "size_bytes": _usage(name, entry)[0],
        "pulled_at": entry.pulled_at,
        "path": None if entry.path is UNSET else entry.path,
    }


def _print_table(entries: Mapping[str, Entry]) -> None:
    width = max(len(name) for name in (*entries, "MODEL"))
    header = _row(width, "MODEL", "TASK", "SOURCE", "SIZE (MB)")
    click.echo(header)
    click.echo("-" * max(RULE, len(header)))
    for name, entry in entries.items():
        size = _usage(name, entry)[0]
        shown = UNKNOWN if size is None else f"{size / 1e6:.1f}"
        click.echo(_row(width, name, entry.task, entry.source, shown))


@click.command()
@click.argument("model")
@config_option
def show(model: str, config_file: str | None) -> None:
    """Show detailed info for a registered model."""
    settings = config.load(config_file)
    known = Registry(settings.registry_path)
    entry = known.get(model)
    if entry is None:
        raise _missing(model, known)
    size, accessed = _usage(model, entry)
    fields = {
        "model": model,
        "task": entry.task,
        "source": entry.source,
        "size": UNKNOWN if size is None else f"{size / 1e6:.2f} MB",
        "last_accessed": UNKNOWN if accessed is None else _local_time(accessed),
    }
    if entry.source == "pip":
        fields |= _packages(settings, model)
    elif entry.path is not UNSET:
        fields["path"] = entry.path
    if entry.converted is not UNSET:
        fields["converted"] = str(entry.converted)
    if entry.source != "pip":
        fields |= _facts(settings, model, entry)
    for name, value in fields.items():
        click.echo(f"  {name + ':':<14} {value}")


@click.command()
@click.argument("model")
@config_option
def rm(model: str, config_file: str | None) -> None:
    """Remove a model from the registry; pulled weights stay."""
    settings = config.load(config_file)
    known = Registry(settings.registry_path)
    entry = removal.remove(model, known, lambda: discover(settings, []))
    if entry is None:
        raise _missing(model, known)
    click.echo(f"Removed '{model}' from the registry.")
    notes = {"hf": _HF_NOTE, "pip": _PIP_NOTE}
    click.echo(notes.get(entry.source, f"Note: {entry.path} was not deleted."))


def _row(width: int, model: str, task: str, source: str, size: str) -> str:
    return f"{model:<{width}}  {task:<8} {source:<6}  {size:>9}"


def _missing(model: str, known: Registry) -> NotFound:
    meant = similar(model, known.entries())
    return NotFound(f"Model not found in registry: {model}{meant}")


def _usage(name: str, entry: Entry) -> tuple[int | None, float | None]:
    """Return a model's bytes on disk and last access (Unix seconds), as far as known."""
    from mataserver.sources import cache, local

    if entry.source == "hf":
        usage = cache.disk_usage(name)
        return (None, None) if usage is None else (usage.size_bytes, usage.last_accessed)
    if entry.path is not UNSET:
        return local.size_of(Path(entry.path)), None
    return None, None


def _local_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _facts(settings: Settings, model: str, entry: Entry) -> dict[str, str]:
    """Return the backend's decisions about a model, or why none serves it."""
    files, known = weights.files(model, entry), plugins(settings)
    provided = known.find_backend(files, entry.task)
    if provided is None:
        refusal = known.rejection_reason(files, entry.task)
        return {} if refusal is None else {"problem": refusal}
    return dict(provided.facts(files))


def _packages(settings: Settings, model: str) -> dict[str, str]:
    """Return the rows of a pip model, which need the plugin that declares it."""
    provided = plugins(settings).pip_backend(model)
    if provided is None:
        return {"pip_packages": UNKNOWN, "installed": "no"}
    names = [found[0] for p in provided.backend.packages if (found := _PACKAGE.match(p))]
    rows = {
        "pip_packages": ", ".join(names) or UNKNOWN,
        "installed": "no" if provided.missing else "yes",
    }
    binary = provided.backend.system_binary
    if binary is not None:
        rows["system_binary"] = f"{binary} ({'yes' if shutil.which(binary) else 'no'})"
    return rows
