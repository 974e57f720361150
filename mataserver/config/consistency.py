"""Validation across settings: contradictions that types cannot express."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.config.settings import EVERY, ConfigError
from mataserver.results import TASKS, is_task
from mataserver.suggestion import describe_unknown_task

if TYPE_CHECKING:
    from mataserver.config.settings import Settings


def check(settings: Settings) -> None:
    """Raise ``ConfigError`` for contradictory settings, naming one of them."""
    if 0 < settings.max_inflight_mb < settings.max_body_mb:
        raise ConfigError("configuration: max_inflight_mb: must not be less than max_body_mb")
    _check_tasks([entry.task for entry in settings.models])
    _check_thread_limits(settings)
    _check_cluster_settings(settings)
    _check_frontend_address(settings)
    _check_replica_spans(settings)
    _check_duplicates([entry.model for entry in settings.models])


def _check_thread_limits(settings: Settings) -> None:
    """Raise ``ConfigError`` for a memory limit on a model without a process of its own."""
    for index, entry in enumerate(settings.models):
        if entry.engine == "thread" and entry.max_ram_mb is not None:
            place = f"models[{index}].max_ram_mb"
            raise ConfigError(f"configuration: {place}: needs the engine process")


def _check_cluster_settings(settings: Settings) -> None:
    """Raise ``ConfigError`` for settings invalid on a cluster, or valid only there."""
    if settings.engine == "ray" and settings.device.startswith("cuda:"):
        raise ConfigError(f"configuration: device: {_NO_GPU_NUMBER}")
    for index, entry in enumerate(settings.models):
        place = f"configuration: models[{index}]"
        preferred = settings.engine if entry.engine == "auto" else entry.engine
        if preferred != "ray":
            if entry.needs is not None and preferred in {"auto", "process", "thread"}:
                raise ConfigError(f"{place}.needs: needs the engine ray")
            continue
        if (entry.device or settings.device).startswith("cuda:"):
            raise ConfigError(f"{place}.device: {_NO_GPU_NUMBER}")
        if entry.max_ram_mb is not None:
            message = "the engine ray has no such limit; needs.memory_mb finds a node with the room"
            raise ConfigError(f"{place}.max_ram_mb: {message}")


def _check_frontend_address(settings: Settings) -> None:
    """Raise ``ConfigError`` for a front-end that its peers could not reach."""
    if settings.shared_dir is None:
        if settings.frontend_address is not None:
            raise ConfigError("configuration: frontend_address: needs shared_dir")
    elif settings.frontend_address is None and settings.host in EVERY:
        message = "needed with shared_dir, where host names no address that others reach"
        raise ConfigError(f"configuration: frontend_address: {message}")


def _check_replica_spans(settings: Settings) -> None:
    """Raise ``ConfigError`` if a model's minimum of workers exceeds its maximum."""
    for index, entry in enumerate(settings.models):
        if entry.span.min > entry.span.max:
            place = f"models[{index}].replicas.min"
            raise ConfigError(f"configuration: {place}: must not be more than max")


_NO_GPU_NUMBER = (
    "with the engine ray a GPU has no number: say cuda, and Ray gives each worker its own"
)


def _check_duplicates(names: list[str]) -> None:
    """Raise ``ConfigError`` for a model that is listed twice."""
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(f"configuration: models[{index}].model: {name!r} is listed twice")


def _check_tasks(tasks: list[str | None]) -> None:
    """Raise ``ConfigError`` for a task that does not exist."""
    for index, task in enumerate(tasks):
        if task is not None and not is_task(task):
            message = describe_unknown_task(task, TASKS)
            raise ConfigError(f"configuration: models[{index}].task: unknown task {message}")
