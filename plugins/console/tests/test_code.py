"""The code that Segment shows does what the page did, run as it is copied."""

from __future__ import annotations

import ast
import asyncio
import json
import os

import planted_sam
import pytest
import test_filming
from console_pages import CHROMIUM, NODE, TABS, asked, ran, served, shown

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
    async with test_filming.before(tmp_path) as (server, person):
        await test_filming.opened(person, film)
        await person.point(".clicks", 0.5, 0.5)
        await person.until("document.querySelectorAll('.over .mask').length === 1")
        for tab in TABS:
            said = (await ran(person, tab, tmp_path)).replace("'", '"').replace('": ', '":')
            assert f'"total_frames":{test_filming.COUNT}' in said, said
            assert f'"frame_index":{test_filming.COUNT - 1}' in said, said
            assert '"detail"' not in said, said
            assert (await asked(server, "GET", "/api/v1/video/sessions"))["total_sessions"] == 1


@pytest.mark.parametrize("given", ["top_k=3", "normalize=false"])
async def test_the_code_of_ask_runs(tmp_path, given):
    """As it is copied it prints the answer as it is written, with parameters of a form and without.

    The page asks the same: whatever the parameters are, and what the question holds.
    """
    question = '@ "how" large; is\nit\'s 100 % \\ width?'
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go(f"ask?{given}")
        await person.give(name="a, b; c.png")
        await person.fill("#question", question)
        await person.until("document.querySelector('.more-params .field')")
        await person.click("Ask", ".talk")
        await person.until("document.querySelector('.answer')?.innerText === '64x64'")
        await person.fill("#question", question)
        await person.click("Code")
        for tab in TABS:
            said = await ran(person, tab, tmp_path)
            assert given.partition("=")[0] in await person.text(".codebox pre"), tab
            assert said.count("64x64") == (1 if tab == "curl" else 2), said
            assert "detail" not in said, said


async def test_what_the_code_needs(tmp_path):
    """Who does what stands below it, word by word, has an answer about an example's picture."""
    (tmp_path / ".mataserver").mkdir()
    (tmp_path / ".mataserver" / "api_key").write_text("test-key\n")
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.until("!!document.querySelector('.examples button')")
        await person.evaluate("document.querySelector('.examples button').click()")
        await person.until("!!document.querySelector('.needs a')")
        link = "document.querySelector('.needs a')"
        name, path = await person.evaluate(f"[{link}.download, {link}.getAttribute('href')]")
        picture = f"fetch({json.dumps(path)}).then((answer) => answer.bytes())"
        data = await person.evaluate(f"{picture}.then((bytes) => [...bytes])")
        (tmp_path / name).write_bytes(bytes(data))
        needs = await person.evaluate(
            "document.querySelector('.needs code:last-of-type').innerText"
        )
        code = await person.text(".codebox pre")
        there = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        made = await asyncio.create_subprocess_shell(
            f"{needs}\n{code}", cwd=tmp_path, env=there, stdout=asyncio.subprocess.PIPE
        )
        said = json.loads((await made.communicate())[0])
        assert said["detections"][0]["label"] == "512x512"
        await person.click("Python", ".codebox")
        await person.sees("pip install mataserver-client")
        await person.give()
        await person.until(f"!{link}")
