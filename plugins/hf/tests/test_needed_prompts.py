"""Parameters without what a model needs are refused before a model or a session is asked."""

from __future__ import annotations

import pytest

from mataserver import InvalidParams
from mataserver_hf.segment_prompted import PromptedParams
from mataserver_hf.vlm_params import VlmParams
from mataserver_hf.zero_shot import ZeroShotParams
from mataserver_hf.zero_shot_detect import GroundingParams, OwlParams


@pytest.mark.parametrize("kind", [ZeroShotParams, OwlParams, GroundingParams, PromptedParams])
def test_prompts_are_needed(kind):
    """A model that looks for words needs one."""
    kind(prompts=("cat",)).check()
    with pytest.raises(InvalidParams, match=r"params\.prompts: this model needs"):
        kind().check()


def test_a_question_is_needed():
    """A question of spaces is none."""
    VlmParams(prompt="What?").check()
    for prompt in ("", " \n"):
        with pytest.raises(InvalidParams, match=r"params\.prompt: this model needs"):
            VlmParams(prompt=prompt).check()
