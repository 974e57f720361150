"""Ask as a conversation: what a model is told of what was said before about a picture."""

from __future__ import annotations

import asyncio
import contextlib

import planted_chat
import pytest
from console_pages import CHROMIUM, TABS, ran, served, shown

from conftest import picture

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
LAST = "document.querySelector('.turn:last-child .answer')?.innerText"
DONE = "!!document.querySelector('.turn:last-child .help')"
WITH = "(document.querySelector('.talk form .row')?.innerText ?? '')"
COUNTED = """window.real ??= fetch; window.asked = 0;
  window.fetch = (path, options) => { asked += /v1.infer/.test(path); return real(path, options); };
  0"""
SMALL = picture(32, 32, (2, 2, 8, 8))


@contextlib.asynccontextmanager
async def asking(tmp_path, place="ask?model=chat"):
    """Yield somebody before Ask, with a picture of 64 pixels."""
    given = {"points": [planted_chat.POINT], "registered": planted_chat.NAMES}
    async with served(tmp_path, **given) as server, shown(server.url, tmp_path) as person:
        await person.go(place)
        await person.give()
        yield person


async def answered(person, question, answer):
    """Ask, and wait for the answer that is meant."""
    await person.fill("#question", question)
    await person.click("Ask", ".talk form")
    try:
        async with asyncio.timeout(20):
            await person.until(f"{LAST} === {answer!r} && {DONE}")
    except TimeoutError:
        pytest.fail(await person.text(".talk"))


async def test_what_was_said_goes_with_the_next_question(tmp_path):
    """With its answers; the turn says of how many it was told, and the code asks the same."""
    async with asking(tmp_path) as person:
        await person.until(f"{WITH}.includes('The model is told what was said before.')")
        await answered(person, "one", "64 told [] asked one")
        assert "told of" not in await person.text(".turn")
        await answered(person, "two", "64 told [one] asked two")
        said = await person.text(".turn:last-child .help")
        assert said.startswith("told of 1 earlier question, 7 tokens in, 5 out, first word after")
        assert "2 earlier questions and their answers" in await person.evaluate(WITH)
        assert await person.faults() == []
        await person.fill("#question", "three")
        await person.click("Code")
        for tab in TABS:
            said = await ran(person, tab, tmp_path)
            assert "64 told [one/two] asked three" in said.replace('" ', "").replace('"', ""), said


async def test_a_new_picture_begins_a_new_conversation(tmp_path):
    """The page says so before the question and beside it; after a reload the newer one goes on."""
    async with asking(tmp_path) as person:
        await answered(person, "one", "64 told [] asked one")
        await person.give(SMALL, "small.png")
        await person.until(f"{WITH}.includes('A new picture: a new conversation.')")
        await answered(person, "two", "32 told [] asked two")
        assert await person.text(".begins") == "New picture: small.png"
        await person.reload()
        await person.until(f"{WITH}.includes('told of 1 earlier question ')")
        await answered(person, "three", "32 told [two] asked three")
        assert await person.evaluate("document.querySelectorAll('.begins').length") == 1


async def test_a_new_conversation_about_the_same_picture(tmp_path):
    """Is chosen for the next question, and can be unchosen; what was said before stays in sight."""
    async with asking(tmp_path) as person:
        await answered(person, "one", "64 told [] asked one")
        for kept in ("told of nothing before", "told of 1 earlier", "told of nothing before"):
            await person.click("New conversation", ".talk form")
            await person.until(f"{WITH}.includes('{kept}')")
        await answered(person, "two", "64 told [] asked two")
        assert await person.text(".begins") == "New conversation"
        await answered(person, "three", "64 told [two] asked three")
        assert await person.evaluate("document.querySelectorAll('.turn').length") == 3


async def test_answering_again(tmp_path):
    """The model is told of what was said before the question, and later of the new answer only."""
    async with asking(tmp_path) as person:
        await answered(person, "one", "64 told [] asked one")
        await answered(person, "two", "64 told [one] asked two")
        await person.fill("#question", "thr")
        await person.click("Answer again")
        await person.until(f"document.querySelectorAll('.turn').length === 3 && {DONE}")
        await person.until(f"{LAST} === '64 told [one] asked two'")
        assert "not told of this answer" in await person.text(".turn.gone")
        assert await person.evaluate("document.querySelector('#question').value") == "thr"
        await answered(person, "three", "64 told [one/two] asked three")
        assert await person.faults() == []


async def test_a_stopped_answer_is_part_of_it(tmp_path):
    """As far as it was written, and as the model reads it."""
    async with asking(tmp_path, "ask?model=chat&seconds=0.4") as person:
        await person.fill("#question", "one")
        await person.click("Ask", ".talk form")
        await person.until(f"{LAST}.startsWith('64 told')")
        await person.click("Stop")
        await person.sees("Stopped: what was written stays.")
        await person.go("ask?model=chat&seconds=0")
        await answered(person, "two", "64 told [one] asked two")


async def test_a_conversation_that_is_too_long(tmp_path):
    """The limit is told in the server's words, and the question can be asked without the rest."""
    async with asking(tmp_path, "ask?model=chat&max_tokens=8") as person:
        await answered(person, "a b c d", "64 told [] asked a b c d")
        long = "e f g h i j k l m n o p"
        await person.fill("#question", long)
        await person.click("Ask", ".talk form")
        await person.sees("takes 24 tokens, at most 23")
        await person.sees("New conversation")
        await person.click("Ask without what was said before")
        await person.until(f"{LAST} === '64 told [] asked e f g h'")
        assert await person.evaluate("document.querySelectorAll('.turn.gone').length") == 0


async def test_an_answer_that_ends_with_the_context(tmp_path):
    """The page tells it from one that max_tokens ended."""
    async with asking(tmp_path) as person:
        await answered(person, "a b c d", "64 told [] asked a b c d")
        await answered(person, "e f g h", "64 told [a b c d] asked e")
        await person.sees("cut off where the model's context ends. A new conversation has room")
        await person.go("ask?model=chat&max_tokens=2")
        await person.click("New conversation", ".talk form")
        await answered(person, "one", "64 told")
        await person.sees("It was cut off at max_tokens.")


async def test_more_turns_than_the_model_takes(tmp_path):
    """Nothing is left out in silence: a new conversation is needed, and the page says it."""
    async with asking(tmp_path) as person:
        for at, told in enumerate(("", "0", "0/1", "0/1/2")):
            await answered(person, at, f"64 told [{told}] asked {at}")
        await person.sees("takes 3 earlier questions, and there are 4: begin a new conversation")
        await person.fill("#question", "five")
        disabled = "document.querySelector('.talk form [type=submit]').disabled"
        assert await person.evaluate(disabled)
        await person.click("New conversation", ".talk form")
        await answered(person, "five", "64 told [] asked five")


async def test_a_model_of_single_questions(tmp_path):
    """It is not told of others, and the page says so: by its parameters, or once it refused."""
    async with asking(tmp_path, "ask?model=fake-vlm") as person:
        await answered(person, "one", "64x64")
        assert "Each question stands by itself: this model" in await person.evaluate(WITH)
        await answered(person, "two", "64x64")
        assert "told of" not in await person.text(".turns")
        await person.go("ask?model=stubborn")
        await person.until(f"{WITH}.includes('earlier questions')")
        await person.evaluate(COUNTED)
        await answered(person, "three", "64 told [] asked three")
        await person.until(f"{WITH}.includes('Each question stands by itself')")
        await answered(person, "four", "64 told [] asked four")
        assert "fake-vlm" not in await person.text(".turns")
        assert "stubborn" in await person.text(".turns")
        assert await person.evaluate("asked") == 3, "it was told of others once, not each time"
