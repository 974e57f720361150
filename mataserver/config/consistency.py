"""Validation across settings: contradictions that types cannot express."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from mataserver.config.settings import EVERY, ConfigError
from mataserver.results import TASKS, is_task
from mataserver.suggestion import describe_unknown_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver.config.settings import ModelSettings, Settings

_NO_GPU_NUMBER = (
    "with the engine ray a GPU has no number: say cuda, and Ray gives each worker its own"
)


def check(settings: Settings) -> None:
    """Raise ``ConfigError`` for contradictory settings, naming one of them."""
    for place, problem in (*_contradictions(settings), *_wrong_times(settings)):
        raise ConfigError(f"configuration: {place}: {problem}")


def _contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    if 0 < settings.max_inflight_mb < settings.max_body_mb:
        yield "max_inflight_mb", "must not be less than max_body_mb"
    if settings.engine == "ray" and settings.device.startswith("cuda:"):
        yield "device", _NO_GPU_NUMBER
    if settings.shared_dir is None and settings.frontend_address is not None:
        yield "frontend_address", "needs shared_dir"
    unreachable = settings.frontend_address is None and settings.host in EVERY
    if settings.shared_dir is not None and unreachable:
        problem = "needed with shared_dir, where host names no address that others reach"
        yield "frontend_address", problem
    for index, host in enumerate(settings.outbound_hosts):
        if "/" in host and not _is_network(host):
            yield f"outbound_hosts[{index}]", "not a network"
    names = [entry.model for entry in settings.models]
    for index, entry in enumerate(settings.models):
        if entry.model in names[:index]:
            yield f"models[{index}].model", f"{entry.model!r} is listed twice"
        for name, problem in _contradictions_of_model(entry, settings):
            yield f"models[{index}].{name}", problem


def _wrong_times(settings: Settings) -> Iterator[tuple[str, str]]:
    given = {"keep_alive": settings.keep_alive} | {
        f"models[{index}].keep_alive": entry.keep_alive
        for index, entry in enumerate(settings.models)
    }
    for place, seconds in given.items():
        if -1 < (seconds or 0) < 0:
            yield place, "must be -1, which means never, or at least 0"


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _contradictions_of_model(entry: ModelSettings, settings: Settings) -> Iterator[tuple[str, str]]:
    if entry.task is not None and not is_task(entry.task):
        yield "task", f"unknown task {describe_unknown_task(entry.task, TASKS)}"
    if entry.engine == "thread" and entry.max_ram_mb is not None:
        yield "max_ram_mb", "needs the engine process"
    engine = settings.engine if entry.engine == "auto" else entry.engine
    if engine == "ray":
        if (entry.device or settings.device).startswith("cuda:"):
            yield "device", _NO_GPU_NUMBER
        if entry.max_ram_mb is not None:
            problem = "the engine ray has no such limit; needs.memory_mb finds a node with the room"
            yield "max_ram_mb", problem
    elif entry.needs is not None and engine in {"auto", "process", "thread"}:
        yield "needs", "needs the engine ray"
    if entry.span.min > entry.span.max:
        yield "replicas.min", "must not be more than max"
