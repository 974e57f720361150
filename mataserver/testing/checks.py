"""Checks of installed plugins."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
import sys

from mataserver import config
from mataserver import plugins as plugin_host

FRAMEWORKS = frozenset(
    {"torch", "transformers", "cv2", "onnxruntime", "tensorflow", "paddle", "easyocr", "openvino"}
)
"""Modules that neither the core nor a plugin's entry module may import."""


def installed(*names: str) -> list[importlib.metadata.EntryPoint]:
    """Return the entry points of installed plugins, for ``serving``.

    The name of a distribution, with or without ``mataserver-``, selects all of its plugins. Raises
    ``LookupError`` for a name that no installed distribution declares.
    """
    return [point for name in names for point in _points(name)]


@functools.cache
def _declared(_path: tuple[str, ...]) -> importlib.metadata.EntryPoints:
    """Return the declared entry points for a path; cached, as scanning all is slow."""
    return importlib.metadata.entry_points(group=plugin_host.GROUP)


def _points(name: str) -> list[importlib.metadata.EntryPoint]:
    points = _declared(tuple(sys.path))
    if name in points.names:
        return [points[name]]
    brought = (name, f"mataserver-{name}")
    found = [point for point in points if point.dist is not None and point.dist.name in brought]
    if not found:
        group = plugin_host.GROUP
        raise LookupError(f"no entry point {name!r} in the group {group!r}: is it installed?")
    return found


def check_plugin(name: str) -> list[str]:
    """Return the problems of the installed plugin with entry point ``name``, if any.

    A distribution's name, as for ``installed``, checks all of its plugins. A plugin must be found
    and load, its hooks must be well formed, and neither its import nor its hooks may import a model
    framework (tested in a fresh interpreter).
    """
    try:
        found = plugin_host.discover(config.Settings(), installed(name))
    except (LookupError, config.ConfigError) as error:
        return [str(error)]
    problems = [f"{plugin.name}: {plugin.error}" for plugin in found.found if plugin.error]
    if not problems:
        heavy = _frameworks(
            "from mataserver import config, plugins, testing;"
            f"plugins.discover(config.Settings(), testing.installed({name!r}))"
        )
        problems += [f"its import or its hooks import {framework}" for framework in heavy]
    return problems


def imported_frameworks(module: str) -> list[str]:
    """Return the model frameworks that importing ``module`` in a fresh interpreter imports."""
    return _frameworks(f"import {module}")


def _frameworks(code: str) -> list[str]:
    code += f"\nimport sys; print(*sorted(set(sys.modules) & set({sorted(FRAMEWORKS)})))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 - our interpreter
    if ran.returncode:
        return [f"an error: {ran.stderr.strip().splitlines()[-1]}"]
    return ran.stdout.split()
