"""How a job asks for a session of a tracker."""

from __future__ import annotations

import pytest

from mataserver import MataError
from mataserver_jobs.model_client import Stream


class Answers:
    """A server whose model refuses the parameter ``timing`` with one sentence."""

    def __init__(self, detail):
        self.detail = detail
        self.asked = []

    def request(self, _method, _path, value):
        """Answer as ``RequestClient`` does."""
        self.asked.append(value["params"])
        if "timing" in value["params"]:
            return 422, {"detail": self.detail}
        return 201, {"session_id": "sess_1"}


def made(server, params):
    """Make a session on a stand-in; return its id."""
    stream = object.__new__(Stream)
    stream._requests = server
    return stream._make("tracker", params)


@pytest.mark.parametrize(
    "detail", ["params.timing: unknown parameter", "params.timing: expected `bool`, got `str`"]
)
def test_a_model_whose_timing_is_none_of_ours(detail):
    """It is asked without: nobody wanted the parameter but we."""
    server = Answers(detail)
    assert made(server, {"score": 0.5}) == "sess_1"
    assert server.asked == [{"score": 0.5, "timing": "frames"}, {"score": 0.5}]


@pytest.mark.parametrize("params", [{"timing": "often"}, {"score": 2}])
def test_what_is_refused_otherwise(params):
    """A value of the caller's, or another parameter, is told as the server told it, at once."""
    field = next(iter(params))
    server = Answers(f"params.{field}: wrong")
    with pytest.raises(MataError, match=f"params.{field}: wrong"):
        made(server, params)
    assert len(server.asked) == 1
