"""A load that failed for a lasting reason is not tried again until something has changed."""

from __future__ import annotations

import json

import pytest

from conftest import picture, register
from mataserver import MataError
from mataserver.testing import serving
from service_plugins import plugin

__all__ = ["plugin"]

FICKLE = """
from mataserver import MataError, OutOfMemory, Unavailable

class Service(Base):
    pass

class Model:
    def predict(self, images, params):
        return [ClassifyResult([Classification("any", 1.0)]) for _ in images]

def load(spec, ctx):
    own = ctx.data_dir / "fickle"  # a confined worker changes files of its plugin alone
    own.mkdir(exist_ok=True)
    with (own / "loads").open("a") as file:
        file.write(spec.name + " ")
    why = (spec.path / "why").read_text()
    if why == "incomplete":
        raise MataError("the checkpoint has no weights")
    if why == "package":
        import a_package_that_nobody_has
    if why == "file":
        (spec.path / "weights").read_bytes()
    if why == "busy":
        raise Unavailable("the device is busy", retry_after=1)
    if why == "memory":
        raise OutOfMemory("the device is full")
    if why == "chance":
        raise RuntimeError("who knows")
    return Model()

@hookimpl
def backends():
    return [Backend(name="fickle", task="classify", source="local", load=load,
                    accepts=accepts)]

def accepts(files):
    return True
"""


@pytest.fixture(params=["thread", "process"])
async def rig(request, tmp_path, plugin):
    """``rig(why)`` asks for a model whose load fails for that reason; the folder; the loads."""
    weights = tmp_path / "weights-of-somebody"
    weights.mkdir()
    (weights / "config.json").write_text(json.dumps({"model_type": "any"}))
    data = tmp_path / "data"
    register(data, {})
    points = [plugin(FICKLE, "fickle")]
    async with serving(data, entry_points=points, engine=request.param) as served:
        service = served.service("fickle")
        models = service.ctx.models

        async def ask():
            name = models.add(weights, "classify")
            async with models.acquire(name) as model:
                return await model.predict(picture())

        yield ask, weights, lambda: (data / "fickle" / "loads").read_text().split()


LASTING = [
    ("incomplete", "the checkpoint has no weights"),
    ("package", "could not be loaded: ModuleNotFoundError"),
    ("file", "could not be loaded: FileNotFoundError"),
]


async def failing(rig, why, words):
    """Make the load fail twice in the same way; return the number of loads."""
    ask, weights, loads = rig
    if not (weights / "why").exists():
        (weights / "why").write_text(why)
    for _ in range(2):
        with pytest.raises(MataError, match=words):
            await ask()
    return len(loads())


@pytest.mark.parametrize(("why", "words"), LASTING)
async def test_a_lasting_reason_is_told_at_once(rig, why, words):
    """The second request gets the same sentence without a load; a changed file ends that."""
    ask, weights, loads = rig
    assert await failing(rig, why, words) == 1
    (weights / "why").write_text("nothing")
    assert (await ask()).classifications
    assert len(loads()) == 2


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("busy", "the device is busy"),
        ("memory", "the device is full"),
        ("chance", "could not be loaded: RuntimeError"),
    ],
)
async def test_what_may_pass_is_tried_again(rig, why, words):
    """A device that is busy or full, or what nobody foresaw, may be gone the next time."""
    assert await failing(rig, why, words) == 2


async def test_an_installed_package_ends_it(rig, tmp_path, monkeypatch):
    """A directory of packages that changed is reason enough to try again."""
    _, _, loads = rig
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.syspath_prepend(packages)
    assert await failing(rig, *LASTING[1]) == 1
    (packages / "another").mkdir()
    await failing(rig, *LASTING[1])
    assert len(loads()) == 2
