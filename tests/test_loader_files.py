"""What the log says of a model whose files are others than those of its registration."""

from __future__ import annotations

import dataclasses

import pytest

from mataserver.config import Settings
from mataserver.plugins import Plugins
from mataserver.serving.engine_set import EngineSet
from mataserver.serving.loader import Loader
from mataserver.sources import local
from pool_rig import Rig, StandIn


class Engine:
    """Starts nothing."""

    async def start(self, assignment, placement):
        """Give what no one uses."""
        return StandIn(0)

    async def close(self):
        """Have nothing to close."""


@pytest.fixture
async def plan():
    rig = Rig()
    yield rig.plan("a")
    await rig.pool.close()


@pytest.mark.parametrize(
    ("single", "said"),
    [(True, "something in the folder of its file changed"), (False, "its files")],
)
async def test_a_change_is_told_once(tmp_path, caplog, plan, single, said):
    """Each later load is of the same files; a further change is told again."""
    file = tmp_path / "model.onnx"
    file.write_bytes(b"weights")
    path = file if single else tmp_path
    spec = dataclasses.replace(plan.spec, path=path)
    plan = dataclasses.replace(plan, spec=spec, edition=local.edition_of(path))
    engine = Engine()
    loader = Loader(
        Settings(), None, EngineSet(Settings(), Plugins(), {"process": engine, "thread": engine})
    )
    await loader.load(plan)
    assert not caplog.records
    for name in ("neighbour", "another"):
        (tmp_path / name).touch()
        for _ in range(3):
            await loader.load(plan)
        (record,) = caplog.records
        assert said in record.getMessage()
        caplog.clear()
