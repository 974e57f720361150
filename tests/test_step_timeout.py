"""A backend, or the model that knows its device, states how long a step of it may take."""

from __future__ import annotations

import pytest

from conftest import register
from mataserver import MataError
from mataserver.testing import serving
from service_plugins import plugin

__all__ = ["plugin"]

SLOW = """
import time

class Service(Base):
    pass

class Slow:
    def predict(self, images, params):
        return [ClassifyResult([Classification("any", 1.0)]) for _ in images]

    def sleep(self, seconds):
        time.sleep(seconds)
        return seconds

    def doze(self, seconds):
        yield self.sleep(seconds)

class Knowing(Slow):
    step_timeout = 5.0

class Modest(Slow):
    step_timeout = 0.0

def load(spec, ctx):
    return {"knowing": Knowing, "modest": Modest}.get(spec.name, Slow)()

@hookimpl
def backends():
    return [
        Backend(name=name, task="classify", source="pip", load=load, step_timeout=seconds)
        for name, seconds in (("quick", 0.0), ("stated", 5.0), ("knowing", 0.0), ("modest", 5.0))
    ]
"""


@pytest.fixture(params=["thread", "process"])
async def models(request, tmp_path, plugin):
    """Models of a server that gives a step 0.3 s."""
    register(tmp_path, dict.fromkeys(("quick", "stated", "knowing", "modest"), "classify"))
    points = [plugin(SLOW, "slow")]
    async with serving(
        tmp_path, entry_points=points, engine=request.param, infer_timeout=0.3
    ) as served:
        service = served.service("slow")
        yield service.ctx.models


@pytest.mark.parametrize("name", ["stated", "knowing"])
async def test_a_step_may_take_what_is_stated(models, name):
    """A call and an item of a stream beyond ``infer_timeout`` are answered, from the first on."""
    async with models.acquire(name) as model:
        assert await model.call("sleep", 0.6) == 0.6
        assert [each async for each in model.stream("doze", 0.6)] == [0.6]


@pytest.mark.parametrize("name", ["quick", "modest"])
async def test_without_a_statement_the_servers_limit_holds(models, name):
    """What the model says counts before what its backend says."""
    async with models.acquire(name) as model:
        with pytest.raises(MataError, match=r"gave no answer within 0\.3 s"):
            await model.call("sleep", 5.0)
