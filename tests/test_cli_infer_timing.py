"""How ``mataserver infer`` asks for the session of a video."""

from __future__ import annotations

import pytest

from mataserver.cli.inferring import _InferenceRun
from mataserver_client import InvalidParams


class Model:
    """A client whose model refuses the parameter ``timing`` with one sentence."""

    def __init__(self, detail):
        self.detail = detail
        self.asked = []

    def stream(self, _model, frames, *, task, **params):
        """Yield the frames, as ``Client.stream`` does their answers."""
        assert task is None
        self.asked.append(params)
        if "timing" in params:
            raise InvalidParams(self.detail)
        yield from frames


def answers(model, params):
    """Return what the command receives for three frames."""
    run = _InferenceRun(model, "tracker", params, None, 1_000_000, None)
    return list(run._answers(iter([b"1", b"2", b"3"])))


@pytest.mark.parametrize(
    "detail", ["params.timing: unknown parameter", "params.timing: expected `bool`, got `str`"]
)
def test_a_model_whose_timing_is_none_of_ours(detail):
    """It is asked without, and gets every frame: nobody wanted the parameter but we."""
    model = Model(detail)
    assert answers(model, {"score": 0.5}) == [b"1", b"2", b"3"]
    assert model.asked == [{"score": 0.5, "timing": "frames"}, {"score": 0.5}]


@pytest.mark.parametrize("params", [{"timing": "often"}, {"score": 2}])
def test_what_is_refused_otherwise(params):
    """A value of the caller's, or another parameter, is told as the server told it, at once."""
    field = next(iter(params))
    model = Model(f"params.{field}: wrong")
    with pytest.raises(InvalidParams, match=f"params.{field}: wrong"):
        answers(model, params)
    assert len(model.asked) == 1
