"""The code that Segment shows does what the page did, run as it is copied."""

from __future__ import annotations

import ast
import json

import planted_sam
import pytest
import test_filming
from console_pages import CHROMIUM, NODE, ran, served, shown

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
PATHS = "[...document.querySelectorAll('.over .mask')].map((e) => e.getAttribute('d'))"
film = test_filming.film


async def test_the_code_of_segment_runs(tmp_path):
    """As it is copied it answers with outlines in pixels, for a click and for words."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.give()
        await person.point(".clicks", 0.5, 0.5)
        await person.until(f"{PATHS}.length === 1")
        for count in (1, 2):
            if count == 2:
                await person.fill("#words", "50 % \\ it's")
                await person.click("Find")
                await person.until(f"{PATHS}.length === 3")
            told = json.loads(await ran(person, "curl", tmp_path))
            assert ast.literal_eval(await ran(person, "Python", tmp_path)) == told
            assert len(told["masks"]) == count
            ((outline, *holes),) = told["masks"][:1]
            assert not holes
            assert all(0 <= number <= 64 for number in outline)
            if NODE:
                assert f"num_masks: {count}" in await ran(person, "JavaScript", tmp_path)


async def test_the_code_of_a_video_runs(tmp_path, film):
    """As it is copied it opens a session, points, tracks and ends it."""
    async with test_filming.before(tmp_path) as (_, person):
        await test_filming.opened(person, film)
        await person.point(".clicks", 0.5, 0.5)
        await person.until("document.querySelectorAll('.over .mask').length === 1")
        said = await ran(person, "curl", tmp_path)
        assert f'"total_frames":{test_filming.COUNT}' in said, said
        assert f'"frame_index":{test_filming.COUNT - 1}' in said, said
        assert '"detail"' not in said, said
