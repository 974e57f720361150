"""What ``models[]`` says of one model reaches its worker, and what cannot be is refused."""

from __future__ import annotations

import importlib.metadata

import aiohttp
import pytest

from mataserver import Backend, Classification, ClassifyResult, hookimpl, testing
from mataserver.config import load
from mataserver.errors import InvalidParams
from mataserver.library.catalog import Catalog
from mataserver.library.configured import ConfiguredModels
from mataserver.library.registry import Registry
from mataserver.plugins import GROUP, discover

TOLD = ("device", "dtype", "threads", "compile", "max_batch")
PICTURE = b"P6\n1 1\n255\n\0\0\0"


class Told:
    """A model that answers with what it was told at its load."""

    def __init__(self, ctx):
        self._said = [f"{name}={getattr(ctx, name)}" for name in TOLD]

    def predict(self, images, _params):
        return [ClassifyResult([Classification(said, 1.0) for said in self._said]) for _ in images]


def load_told(_spec, ctx):
    return Told(ctx)


class Plugin:
    """Two models that are alike, but that one of them cannot be compiled."""

    @hookimpl
    def backends(self):
        common = {"task": "classify", "source": "pip", "load": load_told, "max_batch": 3}
        return [
            Backend(name="told", compiles=True, **common),
            Backend(name="plain", compiles=False, **common),
        ]


plugin = Plugin()
POINT = importlib.metadata.EntryPoint("told", f"{__name__}:plugin", GROUP)


async def said(http, model):
    """Ask a model what it was told."""
    async with http.post("/v1/infer", params={"model": model}, data=PICTURE) as answer:
        body = await answer.json()
        assert answer.status == 200, body
        return dict(each["label"].split("=") for each in body["classifications"])


@pytest.mark.parametrize("engine", ["thread", "process"])
async def test_a_models_own_settings_reach_its_worker(tmp_path, engine):
    """Each model is loaded with its own settings, and with the server's where it has none."""
    own = {"device": "cuda:1", "dtype": "bfloat16", "threads": 3, "compile": True, "max_batch": 5}
    models = [{"model": "told", "task": "classify", **own}, {"model": "plain", "task": "classify"}]
    everyones = {"device": "cpu", "dtype": "float16", "threads": 2}
    async with (
        testing.serving(
            tmp_path, entry_points=[POINT], engine=engine, models=models, **everyones
        ) as served,
        aiohttp.ClientSession(
            served.url, headers={**served.headers, "Content-Type": "image/x-portable-pixmap"}
        ) as http,
    ):
        assert await said(http, "told") == {name: str(value) for name, value in own.items()}
        others = {**everyones, "compile": None, "max_batch": 3}
        assert await said(http, "plain") == {name: str(value) for name, value in others.items()}


def test_what_cannot_be_compiled_is_refused(tmp_path):
    """``compile: true`` for a backend that cannot compile is named; false is no mistake."""
    for wanted in (True, False):
        settings = load(
            environ={},
            directory=tmp_path,
            data_dir=str(tmp_path),
            models=[{"model": "plain", "task": "classify", "compile": wanted}],
        )
        registry = Registry(tmp_path / "model_registry.json")
        catalog = Catalog(settings, registry, discover(settings, [POINT]))
        ConfiguredModels(catalog).add()
        if wanted:
            with pytest.raises(
                InvalidParams, match=r"^models: plain: compile: plain does not support compile"
            ):
                ConfiguredModels(catalog).check()
        else:
            ConfiguredModels(catalog).check()
