"""What others write (labels, names, errors) is text on every page, and never a part of the page."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from urllib.parse import quote

import aiohttp
import pytest
from console_pages import CHROMIUM, SQUARE, asked, served, shown

from camera_sources import make_video

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
EVIL = "<img src=x onerror=window.hacked=1>"
BROKEN = """document.addEventListener("securitypolicyviolation", () => { window.broken += 1; });
  window.broken = 0;"""


async def harmless(person):
    """Fail unless the page shows the text, and has made nothing of it."""
    await person.sees(EVIL)
    assert await person.evaluate("document.querySelectorAll('[src=x]').length") == 0
    assert await person.evaluate("[window.broken, window.hacked ?? null]") == [0, None]


async def the_pages_of_models(person):
    """Labels, the names of pictures and models, and what was asked."""
    given = quote(json.dumps([EVIL]))
    await person.go(f"try?model=turned&prompts={given}")
    await person.give(SQUARE, f"{EVIL}.png")
    await person.until("document.querySelectorAll('.found li[data-n]').length == 1")
    await harmless(person)
    assert await person.evaluate("document.querySelector('.found [title]').title") == EVIL
    await person.click("JSON")
    await harmless(person)
    await person.go(f"compare?model=turned&prompts={given}&with={quote(EVIL)}")
    await person.until("document.querySelector('[data-side=b] .note.bad')?.innerText")
    await harmless(person)
    await person.go(f"try?model={quote(EVIL)}")
    await person.until("document.querySelector('.right .note.bad')?.innerText")
    await harmless(person)
    await person.go("ask?model=fake-vlm")
    await person.fill("#question", EVIL)
    await person.click("Ask", ".talk")
    await person.until("!!document.querySelector('.answer')")
    await harmless(person)


async def a_job(server):
    """Return a job of a file with such a name, which fails with such an error."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{EVIL}.png", "no picture")
    form = aiohttp.FormData({"model": "fake-detect"}, quote_fields=False)
    form.add_field("file", packed.getvalue(), filename=f"{EVIL}.zip")
    return (await asked(server, "POST", "/v1/jobs/infer", data=form))["id"]


async def the_pages_of_operators(person, server, folder):
    """Jobs with their files and errors, cameras, keys, models, what the fleet refuses."""
    await person.go(f"jobs?id={await a_job(server)}")
    await person.until("!!document.querySelector('.jobhead .state.bad')")
    await harmless(person)
    video = make_video(folder / f"{EVIL}.mp4")
    camera = {"model": "fake-detect", "source": str(video)}
    await asked(server, "POST", "/v1/cameras", json=camera)
    await person.go("live")
    await person.until("!!document.querySelector('.tile')")
    await harmless(person)
    await person.go("models")
    await person.until("!!document.querySelector('.cards tbody tr')")
    await harmless(person)
    await asked(server, "POST", "/v1/keys", json={"name": EVIL, "scopes": ["infer"]})
    await person.go("server")
    await harmless(person)
    await person.go("fleet?part=apps")
    await person.click("New application")
    await person.fill("dialog input[name=name]", EVIL)
    await person.click("Make the application")
    await person.until("document.querySelector('dialog .note.bad')?.innerText")
    assert await person.evaluate("[window.broken, window.hacked ?? null]") == [0, None]


async def test_text_of_others(tmp_path):
    """It stands there letter by letter; where it got into a page, the policy would stop it."""
    settings = {"plugins": {"cameras": {"camera_paths": [str(tmp_path)]}}}
    names = ("cameras", "database", "accounts", "jobs", "fleet")
    known = {EVIL: "detect"}
    async with (
        served(tmp_path, *names, registered=known, **settings) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate(BROKEN)
        await the_pages_of_models(person)
        await the_pages_of_operators(person, server, tmp_path)
        await person.evaluate(f"void (document.querySelector('main').innerHTML += {EVIL!r})")
        await person.until("window.broken > 0")
        assert await person.evaluate("window.hacked ?? null") is None


TURNS = "photo\u202egnp"
HEBREW = "\u05e9\u05dc\u05d5\u05dd 12"
PLACES = """(box, ...words) => {
  const walk = document.createTreeWalker(box, NodeFilter.SHOW_TEXT), lefts = [];
  for (const word of words) {
    walk.currentNode = box;
    while (walk.nextNode() && !walk.currentNode.data.includes(word));
    const range = document.createRange(), at = walk.currentNode.data.indexOf(word);
    range.setStart(walk.currentNode, at);
    range.setEnd(walk.currentNode, at + word.length);
    const { left, top } = range.getBoundingClientRect();
    lefts.push([Math.round(top), Math.round(left)]);
  }
  return lefts;
}"""
"""Where words are, as [top, left] by word."""
SENTENCE = f"""(async (name) => {{
  const {{ html, render }} = await import("./console/html.mjs");
  const {{ pictureOf }} = await import("./console/picture.mjs");
  const empty = await pictureOf(new File([], name), name).catch((error) => error.message);
  const root = document.body.appendChild(document.createElement("div"));
  const Told = ({{ children }}) => html`<p>${{children}}</p>`;
  render(html`<${{Told}}>Remove ${{name}} for good<//>
    <p title=${{`Remove ${{name}} for good`}}>${{empty}}</p>
    <p>${{`Model not found: ${{name}} for good`}}</p><p>${{name}}: 77 times</p>`, root);
  const [parts, one, told, many] = root.children, places = {PLACES};
  return [places(parts, "Remove", "for", "good"), places(one, " is", "empty", "bytes"),
    places(told, "Model", "found", "for", "good"),
    places(many, name.slice(0, 2), "77", "times"), one.title];
}})"""
LOOSE = """(() => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walk.nextNode()) {
    const { data } = walk.currentNode;
    if (/[\\u202a-\\u202e]/.test(data)) found.push(data);
  }
  for (const each of document.querySelectorAll("[title], [aria-label], [alt]")) {
    const said = `${each.title}${each.ariaLabel}${each.getAttribute("alt")}`;
    if (/[\\u202a-\\u202e]/.test(said)) found.push(said);
  }
  return found;
})()"""
ADLAM = "\U0001e900\U0001e901 12"
NAMES = [TURNS, f"a\u2069{TURNS}", HEBREW, ADLAM, "plain"]


@pytest.fixture
async def turned(tmp_path):
    """A page of a server with a model whose name turns what stands behind it."""
    async with (
        served(tmp_path, registered={TURNS: "detect"}) as server,
        shown(server.url, tmp_path) as person,
    ):
        yield person


async def test_a_name_does_not_turn_the_words_around_it(turned):
    """What stands behind it stays behind it: in parts, in one sentence, and in a server's."""
    await turned.go("models")
    await turned.until("document.body.textContent.includes('photo')")
    for name in NAMES:
        *found, title = await turned.evaluate(f"{SENTENCE}({json.dumps(name)})")
        for places in found:
            assert places == sorted(places), name
        assert "\u202e" not in title
    assert await turned.evaluate(LOOSE) == []
    await turned.sees("photo\\u202egnp")


async def test_an_error_about_a_name_that_turns(turned):
    """The server's sentence about a model is shown without what would turn it."""
    await turned.go(f"try?model={quote('x' + TURNS)}")
    await turned.give()
    await turned.until("document.querySelector('.right .note.bad')?.innerText")
    assert await turned.evaluate(LOOSE) == []


BARE = f"""(async (name) => {{
  const {{ html, render }} = await import("./console/html.mjs");
  const root = document.body.appendChild(document.createElement("div"));
  render(html`<select><option value=${{name}}>${{[name]}}</option></select>
    <svg><circle><title>${{name}}</title></circle><text>${{name}}</text></svg>`, root);
  return [root.querySelector("option").value, root.textContent];
}})({json.dumps(TURNS)})"""


async def test_where_no_element_stands(turned):
    """An option and the texts of a drawing show what would turn them, and give the name itself."""
    value, text = await turned.evaluate(BARE)
    assert value == TURNS
    assert text.count("photo\\u202egnp") == 3
    assert await turned.evaluate(LOOSE) == []


TOLD = f"""(async (sentences) => {{
  const {{ html, render }} = await import("./console/html.mjs");
  const {{ sentence }} = await import("./console/direction.mjs");
  const root = document.body.appendChild(document.createElement("div"));
  render(html`${{sentences.map((each) => html`<p key=${{each}}>${{sentence(each)}}</p>`)}}`, root);
  return [...root.children].map((each) => {{
    const name = each.textContent.replace("\\u200e", "").slice(0, 2);
    return ({PLACES})(each, name, "is", "known").map(([, left]) => left);
  }});
}})"""


async def test_a_sentence_of_the_server_that_begins_with_such_a_name(turned):
    """It goes on to the right of the name, as English does."""
    sentences = [f"{name} is not known" for name in (HEBREW, ADLAM, "\u200fa", "plain")]
    for places in await turned.evaluate(f"{TOLD}({json.dumps(sentences)})"):
        assert places == sorted(places)
        assert len(places) == 3


async def test_why_items_of_a_job_failed(tmp_path):
    """Each reason is a sentence of the server, also if it begins with a name read to the left."""
    said = json.dumps(f"{HEBREW} is not known")
    instead = f"""window.real = fetch; window.fetch = async (path, options) => {{
      const answer = await real(path, options);
      if (!/^v1.jobs.[-0-9a-f]+$/.test(path)) return answer;
      const text = (await answer.text())
        .replace(/"error":"[^"]+"/g, `"error":${{JSON.stringify({said})}}`);
      return new Response(text, answer);
    }}; 0"""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", SQUARE)
        archive.writestr("b.png", "no picture")
    form = aiohttp.FormData({"model": "fake-detect"})
    form.add_field("file", packed.getvalue(), filename="two.zip")
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        job = (await asked(server, "POST", "/v1/jobs/infer", data=form))["id"]
        while not (await asked(server, "GET", f"/v1/jobs/{job}"))["finished_at"]:
            await asyncio.sleep(0.05)
        await person.evaluate(instead)
        await person.go(f"jobs?id={job}")
        await person.sees("is not known")
        row = "document.querySelector('.note li')"
        places = await person.evaluate(f"({PLACES})({row}, 'b.png', {HEBREW[:2]!r}, 'is', 'known')")
        assert places == sorted(places)
