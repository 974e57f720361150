"""Modules of plugins that tests write, and what is found of them."""

from __future__ import annotations

import importlib.metadata
import itertools
import textwrap

import pytest

from mataserver import plugins as plugin_host
from mataserver.config import Settings

_NUMBERS = itertools.count()
SOUND = """
from typing import Annotated
import msgspec; from msgspec import Struct
from mataserver import Backend, Classification, ClassifyResult, Params, hookimpl

class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    size: int = 3

class Model:
    def predict(self, images, params):
        return [ClassifyResult([Classification("any", 1.0)]) for _ in images]

class Boxes(Struct):
    detections: list[Settings] = []

def load(spec, ctx):
    return Model()

def accepts(files):
    return files.model_type == "any"

async def awaited(files):
    return False

class Wide(Params, frozen=True):
    share: Annotated[float, msgspec.Meta(le=1)] = 7.0

class Vague(Params, frozen=True):
    each: iter = None

def backend(**given):
    return Backend(**{"name": "any", "task": "classify", "source": "pip", "load": load, **given})
"""


HOOKS = """
@hookimpl
def settings():
    return Settings

@hookimpl
def backends():
    return [backend()]
"""


@pytest.fixture(name="plugin")
def plugin_fixture(tmp_path, monkeypatch):
    """Write a plugin's module and return its entry point."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def written(source, name="mine", preamble=SOUND):
        module = f"plugin_under_test_{next(_NUMBERS)}"
        (folder / f"{module}.py").write_text(preamble + textwrap.dedent(source))
        return importlib.metadata.EntryPoint(name, module, plugin_host.GROUP)

    return written


def names(found):
    """Return the names of the backends in use."""
    return [offer.backend.name for offer in found.provided if offer.plugin.error is None]


def given(**plugins):
    """Return settings with ``plugins``."""
    return Settings(plugins=plugins)
