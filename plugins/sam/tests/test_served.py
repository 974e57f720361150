"""The model behind the API: registered once, and every failure to get it is a 503."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from mataserver import Conflict, MataError, ModelInfo, NotFound, OutOfMemory, Unavailable
from mataserver_sam.served import ServedModel


class Models:
    """The server's models, as a service sees them, of which one may be loaded."""

    def __init__(self, *names):
        self.known = {name: self.told(name) for name in names}
        self.added, self.described = [], 0
        self.refuses = None

    @staticmethod
    def told(name, state="unloaded", loaded_at=None):
        """Return what is known of a model."""
        return ModelInfo(
            model=name,
            task="segment",
            source="local",
            state=state,
            size_mb=1.0,
            memory_mb=2.0,
            loaded_at=loaded_at,
            last_used=None,
        )

    def add(self, path, task):
        """Register a directory under its last component."""
        if self.refuses is not None:
            raise self.refuses
        self.added.append((path, task))
        self.known[path.name] = self.told(path.name)
        return path.name

    def info(self, model):
        """Tell of a registered model."""
        if model not in self.known:
            raise NotFound(f"Model not found: {model}")
        return self.known[model]

    @contextlib.asynccontextmanager
    async def acquire(self, model, _task):
        """Load a model."""
        self.info(model)
        if self.refuses is not None:
            raise self.refuses
        self.known[model] = self.told(model, "ready", loaded_at=5.0)
        yield self

    async def call(self, method):
        """Answer ``describe``."""
        assert method == "describe"
        self.described += 1
        return {"device": "cpu", "capabilities": ["box_prompt"], "gpus": [(0, 1, 2)]}


def served(models, model, device=""):
    """Return the model that a service with these settings serves."""
    settings = SimpleNamespace(model=str(model), device=device)
    return ServedModel(SimpleNamespace(models=models, settings=settings))


async def test_a_directory_is_registered_once(tmp_path):
    """However often it is asked for; and again when somebody removed it meanwhile."""
    models = Models()
    model = served(models, tmp_path)
    for _ in range(3):
        async with model.acquire():
            pass
    assert models.added == [(tmp_path, "segment")]
    models.known.clear()
    with pytest.raises(Unavailable, match="The model is not here"):
        async with model.acquire():
            pass
    async with model.acquire():
        assert len(models.added) == 2


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(
    ("beside", "instead"),
    [
        (False, "name a directory in the layout of the hub, or a name such as facebook/sam3"),
        (True, "name the directory that it lies in, which has that layout"),
    ],
)
async def test_a_single_file(tmp_path, exists, beside, instead):
    """A file of weights, there or not, is told as one, with what can be loaded in its place."""
    file = tmp_path / "sam3.pt"
    if exists:
        file.write_bytes(b"weights")
    if beside:
        (tmp_path / "config.json").write_text("{}")
    models = Models()
    with pytest.raises(Unavailable, match="a single file of weights cannot be loaded") as told:
        async with served(models, file).acquire():
            pass
    assert told.value.detail.endswith(instead)
    assert "names the file sam3.pt" in told.value.detail
    assert "pull" not in told.value.detail
    assert str(tmp_path) not in told.value.detail
    assert models.added == []


async def test_a_directory_that_is_not_there(tmp_path):
    """An absolute path to nothing is no name to pull; it is served once it is there."""
    models = Models()
    model = served(models, tmp_path / "later")
    with pytest.raises(Unavailable, match="names a directory that does not exist"):
        async with model.acquire():
            pass
    (tmp_path / "later").mkdir()
    async with model.acquire():
        assert models.added == [(tmp_path / "later", "segment")]


async def test_a_name_may_come_later():
    """A model that is pulled while the server runs is found without a restart."""
    models = Models()
    model = served(models, "facebook/sam3")
    with pytest.raises(Unavailable, match="mataserver pull facebook/sam3 --task segment"):
        async with model.acquire():
            pass
    assert model.info() is None
    models.known["facebook/sam3"] = models.told("facebook/sam3")
    async with model.acquire():
        assert model.in_memory


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MataError("it is broken"), "The model is not loaded: it is broken"),
        (OutOfMemory("Not enough memory"), "The model is not loaded: Not enough memory"),
        (Unavailable("soon", retry_after=7), "The model is not loaded: soon"),
    ],
)
async def test_whatever_stops_it_is_unavailable(error, said):
    """A client that asks for an image is told 503, with the reason and when to ask again."""
    models = Models("sam3")
    models.refuses = error
    with pytest.raises(Unavailable, match=said) as told:
        async with served(models, "sam3").acquire():
            pass
    assert told.value.retry_after == error.retry_after


async def test_a_directory_that_is_refused(tmp_path):
    """A directory that nothing serves, or whose name is taken, is 503 too."""
    models = Models()
    models.refuses = Conflict("the name is in use")
    with pytest.raises(Unavailable, match="The model cannot be served: the name is in use"):
        async with served(models, tmp_path).acquire():
            pass


async def test_errors_of_the_work_are_its_own():
    """What goes wrong while the model is held is not told as a model that is not there."""
    with pytest.raises(MataError, match="my own") as told:
        async with served(Models("sam3"), "sam3").acquire():
            raise MataError("my own", status=422)
    assert told.value.status == 422


async def test_facts_are_asked_once_a_load():
    """The model is asked what it is once after each load, and not at all when it is not loaded."""
    models = Models("sam3")
    model = served(models, "sam3", device="cuda:1")
    assert await model.facts() == {"device": "cuda:1", "capabilities": []}
    assert model.gpu_memory is None
    async with model.acquire():
        pass
    for _ in range(3):
        assert (await model.facts())["capabilities"] == ["box_prompt"]
    assert models.described == 1
    assert model.gpu_memory == [(0, 1, 2)]
    models.known["sam3"] = models.told("sam3", "idle", loaded_at=6.0)
    await model.facts()
    assert models.described == 2


async def test_nothing_configured():
    """Without a model the sentence names both ways to set one."""
    with pytest.raises(Unavailable, match=r"set plugins\.sam\.model or SAM3_CHECKPOINT"):
        async with served(Models(), "").acquire():
            pass
