"""A panic of a library in Rust, whose exception is no ``Exception``: it fails as others do."""

from __future__ import annotations

import pytest

from conftest import picture
from mataserver.config import Settings
from mataserver.plugins import discover
from plugin_sources import plugin_fixture  # noqa: F401 - the fixture "plugin"
from service_plugins import PREAMBLE

PNG = picture()
PANIC = """
class PanicException(BaseException):
    pass

def panic(*_given):
    raise PanicException("called `Option::unwrap()` on a `None` value")
"""
MODEL = (
    PANIC
    + """
class Panicking(Model):
    def predict(self, images, params):
        if images[0].shape[0] == 13:
            panic()
        return super().predict(images, params)

def load_panicking(spec, ctx):
    return Panicking()

@hookimpl
def backends():
    return [
        backend(load=load_panicking),
        backend(name="never", load=panic),
        backend(name="unasked", source="local", accepts=panic),
    ]
"""
)
SERVICE = (
    PANIC
    + """
class Service(Base):
    def routes(self):
        return [
            Route("GET", "/panics/handler", self.handler, needs="infer"),
            Route("GET", "/panics/thread", self.thread, needs="infer"),
        ]

    async def handler(self, request):
        panic()

    async def thread(self, request):
        await self.ctx.run_blocking(panic)

    async def authenticate(self, credentials):
        if credentials.secret == "panic":
            panic()

    ready = ping = pages = panic
"""
)


@pytest.mark.parametrize("engine", ["process", "thread"])
async def test_a_model(plugin, mata_client, fake_models, engine):
    """It fails its own request, as the log and the answer say; the worker goes on."""
    client = await mata_client(
        plugin(MODEL),
        engine=engine,
        models=[{"model": "any", "task": "classify"}, {"model": "never", "task": "classify"}],
    )
    for _ in range(3):
        answer = await client.post("/v1/infer?model=any", data=picture(height=13))
        said = await answer.json()
        assert (answer.status, said) == (500, {"detail": "The model failed: PanicException"})
    assert (await client.post("/v1/infer?model=any", data=PNG)).status == 200
    answer = await client.post("/v1/infer?model=never", data=PNG)
    said = await answer.json()
    assert (answer.status, said) == (
        500,
        {"detail": "The model could not be loaded: PanicException"},
    )


@pytest.mark.undocumented("the plugin that authenticates fails")
@pytest.mark.parametrize("name", ["handler", "thread"])
async def test_a_handler(plugin, mata_client, name):
    """It is answered as any that fails."""
    client = await mata_client(plugin(SERVICE, name="panics", preamble=PREAMBLE))
    answer = await client.get(f"/panics/{name}")
    assert (answer.status, await answer.json()) == (500, {"detail": "Internal server error"})
    for path in ("/health", "/ready", "/v1/pages"):
        assert (await client.get(path)).status == 200, path
    headers = {"Authorization": "Bearer panic"}
    assert (await client.get("/v1/models", headers=headers)).status == 500


def test_a_plugin_that_panics_as_it_is_imported(plugin):
    """It is not in use, and says why; the others are."""
    points = [plugin(PANIC + "\npanic()\n", name="panics"), plugin(MODEL, name="sound")]
    broken, sound = discover(Settings(), points).found
    assert "PanicException: called `Option::unwrap()`" in broken.error
    assert sound.error is None


def test_ctrl_c_ends_an_import(plugin):
    """Whoever starts the server may end it then."""
    with pytest.raises(KeyboardInterrupt):
        discover(Settings(), [plugin("raise KeyboardInterrupt", name="slow")])
