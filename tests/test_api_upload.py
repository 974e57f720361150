"""``POST /v1/infer/upload``: multipart forms, well made and badly made."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_answers import detail_of, exchange, head_of, problem
from conftest import picture
from mataserver.errors import MataError
from mataserver.http import forms
from mataserver.params.table import OLD_NAMES, UPLOAD_FIELDS, ApiParams

PNG = picture()
PATH = "/v1/infer/upload"
END = b"--B--\r\n"
FAST = settings(max_examples=100, deadline=None, derandomize=True, database=None)
PIECES = [
    b"--B",
    b"--",
    b"\r\n",
    b"\n",
    b'Content-Disposition: form-data; name="file"',
    b"Content-Disposition: form-data; name=\"model\"; filename*=utf-8''%ff",
    b"Content-Type: multipart/mixed",
    b"Content-Length: -1",
    b"\xff",
    b"x",
]
VALUES = {
    "confidence": ["0.4", "1", "0", "1e-3"],
    "prompts": ["cat . dog", ""],
    "prompt": ["What is this?", "null", "ünï"],
    "language": ["eng"],
    "top_k": ["3", " 5"],
    "max_tokens": ["256"],
    "temperature": ["0", "0.7"],
    "output_mode": ["json"],
    "ocr_type": ["format"],
    "detail": ["0", "1"],
}
WRONG = {
    "confidence": [" ", "high", "1.1", "-0.1", "nan", "inf", "0,5", "true", "[0.5]", "1e999"],
    "prompts": ["x" * 20_000],
    "prompt": ["x" * 20_000],
    "language": ["x" * 100],
    "top_k": ["0", "-1", "1.5", "five", "5_0", "1e3x"],
    "max_tokens": ["0", "999999", "many"],
    "temperature": ["-1", "nan", "Infinity", "hot"],
    "output_mode": ["xml"],
    "ocr_type": ["plain"],
    "detail": ["2", "true", "-1"],
}


def form(model="fake-detect", image=PNG, **fields) -> aiohttp.FormData:
    """Return a form with a model, a file and further text fields; None leaves one out."""
    made = aiohttp.FormData(default_to_multipart=True)
    for name, value in {"model": model, **fields}.items():
        if value is not None:
            made.add_field(name, value)
    if image is not None:
        made.add_field("file", image, filename="photo.jpg", content_type="image/jpeg")
    return made


async def refused(http, status, made) -> str:
    """Upload a form that must be answered with ``status``; return the detail."""
    async with http.post(PATH, data=made) as response:
        return await problem(response, status)


def part(name: str, content: bytes, more: bytes = b"") -> bytes:
    """Return one part of a hand-made form with the boundary B."""
    head = b'--B\r\nContent-Disposition: form-data; name="%s"' % name.encode()
    return head + more + b"\r\n\r\n" + content + b"\r\n"


MODEL = part("model", b"fake-detect")
FILE = part("file", PNG, b'; filename="a.png"')


async def by_hand(server, body: bytes, kind="multipart/form-data; boundary=B"):
    """POST bytes as a form; return status and body."""
    head = head_of(server, PATH, f"Content-Type: {kind}", f"Content-Length: {len(body)}")
    status, _, answer = await exchange(server, head + body)
    return status, answer


async def test_an_upload_is_answered_like_json(http):
    """The answer is the same mata.v1; the file's declared type and name do not matter."""
    async with http.post(PATH, data=form()) as response:
        assert response.status == 200
        body = await response.json()
    assert set(body) == {"schema_version", "task", "model", "timestamp", "detections"}
    assert body["detections"][0]["bbox"] == [10.0, 8.0, 30.0, 28.0]


async def test_messagepack_uploads(http):
    """Accept chooses the encoding here too."""
    headers = {"Accept": "application/msgpack"}
    async with http.post(PATH, data=form(), headers=headers) as response:
        assert response.content_type == "application/msgpack"


def test_the_table_is_whole():
    """Every parameter that a form can carry has its rows here."""
    assert set(VALUES) == set(WRONG) == UPLOAD_FIELDS


@pytest.mark.parametrize("name", VALUES)
async def test_fields_that_are_accepted(http, name):
    """Text is converted to the parameter's type."""
    for value in VALUES[name]:
        async with http.post(PATH, data=form(**{name: value})) as response:
            assert response.status == 200, await response.text()


async def test_fields_reach_the_model(http):
    """A form's numbers arrive as numbers."""
    async with http.post(PATH, data=form("fake-classify", top_k="2")) as response:
        assert len((await response.json())["classifications"]) == 2
    async with http.post(PATH, data=form(confidence="0.1")) as response:
        assert len((await response.json())["detections"]) == 2


@pytest.mark.parametrize("name", WRONG)
async def test_fields_that_are_refused(http, name):
    """A value that is no such number, or out of range, is 422 and named."""
    for value in WRONG[name]:
        detail = await refused(http, 422, form(**{name: value}))
        assert detail.removeprefix("params.").startswith(name), (value, detail)


@pytest.mark.parametrize("name", sorted(set(ApiParams.__struct_fields__) - UPLOAD_FIELDS))
async def test_complex_parameters_are_for_json_only(http, name):
    """The nine parameters that a form cannot carry are 422."""
    detail = await refused(http, 422, form(**{name: "1"}))
    assert detail == f"{name}: only the JSON endpoint takes this parameter"


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
async def test_old_names(http, old, new):
    """An old name is 422 with the new one."""
    assert f"use '{new}'" in await refused(http, 422, form(**{old: "0.5"}))


async def test_empty_fields_are_not_given(http):
    """A browser sends every input of a form, also those that nobody filled in."""
    empty = dict.fromkeys(UPLOAD_FIELDS, "")
    async with http.post(PATH, data=form(**empty)) as response:
        assert response.status == 200, await response.text()
        given = await response.json()
    async with http.post(PATH, data=form()) as response:
        assert given["detections"] == (await response.json())["detections"]


@pytest.mark.parametrize("name", ["foo", "target_size"])
async def test_an_empty_field_has_a_name_still(http, name):
    """One that no model takes may be misspelt, whatever is in it."""
    assert name in await refused(http, 422, form(**{name: ""}))


@pytest.mark.parametrize("name", ["foo", "params", "picture", "confidence[]"])
async def test_unknown_fields(http, name):
    """A form is as strict as params."""
    assert "unknown parameter" in await refused(http, 422, form(**{name: "1"}))


@pytest.mark.parametrize(
    ("made", "status", "said"),
    [
        ({"model": None}, 422, "model: field is required"),
        ({"model": ""}, 422, "model: field is required"),
        ({"model": "none"}, 404, "Model not found: none"),
        ({"image": None}, 422, "file: field is required"),
        ({"image": b""}, 400, "Uploaded file is empty"),
        ({"image": b"no image"}, 400, "cannot be decoded"),
        ({"image": PNG[:80]}, 400, "cannot be decoded"),
        ({"model": "m" * 70_000}, 422, "model: longer than"),
    ],
)
async def test_forms_that_are_refused(http, made, status, said):
    """A missing field is 422, an empty or unreadable file 400, an unknown model 404."""
    assert said in await refused(http, status, form(**made))


async def test_a_field_given_twice(server):
    """Which of two values counts is nobody's guess: 422."""
    for twice in (
        MODEL + MODEL + FILE,
        MODEL + FILE + FILE,
        MODEL + part("top_k", b"1") * 2 + FILE,
    ):
        status, body = await by_hand(server, twice + END)
        assert status == 422
        assert detail_of(body).endswith("given twice")


async def test_text_that_is_no_utf8(server):
    """A text field must be UTF-8."""
    status, body = await by_hand(server, MODEL + part("prompt", b"\xff\xfe") + FILE + END)
    assert (status, detail_of(body)) == (422, "prompt: not UTF-8 text")


async def test_order_does_not_matter(server):
    """The file may come before the model."""
    assert (await by_hand(server, FILE + MODEL + END))[0] == 200


async def test_a_file_without_a_filename(server):
    """A part called file is the file, whether it has a name or not."""
    assert (await by_hand(server, MODEL + part("file", PNG) + END))[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing at all",
        MODEL + FILE,
        MODEL + FILE[:-40],
        MODEL + b"--B\r\nno header\r\n\r\nx\r\n" + END,
        b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END,
        b"--B\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n" + END,
        MODEL + b"".join(part(f"f{i}", b"") for i in range(100)) + END,
    ],
    ids=[
        "empty",
        "text",
        "unclosed",
        "cut",
        "no header",
        "no name",
        "long header",
        "many fields",
    ],
)
async def test_broken_multipart(server, body):
    """What cannot be split into parts is 400."""
    status, answer = await by_hand(server, body)
    assert status == 400
    assert detail_of(answer).startswith("The multipart body ")


@pytest.mark.parametrize(
    "kind",
    ["multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""'],
)
async def test_a_form_without_a_boundary(server, kind):
    """Without a boundary there is nothing to split by: 400."""
    status, body = await by_hand(server, MODEL + FILE + END, kind)
    assert (status, detail_of(body)) == (400, "The multipart body has no boundary")


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=ünï",
        "multipart/form-data; boundary=" + "B" * 5000,
        'multipart/form-data; boundary="B\x01"',
        "multipart/form-data; boundary=C",
    ],
)
async def test_a_boundary_that_is_not_in_the_body(server, kind):
    """Odd boundaries are 400 and no more."""
    status, _ = await by_hand(server, MODEL + FILE + END, kind)
    assert status == 400


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "", "image/png", "multipart/mixed"]
)
async def test_other_content_types(server, kind):
    """Anything but a form is 415."""
    status, body = await by_hand(server, MODEL + FILE + END, kind)
    assert (status, detail_of(body)) == (415, "Content-Type must be multipart/form-data")


def written(parts: dict[str, bytes], boundary: str) -> bytes:
    """Write a form as a client does."""
    made = b""
    for name, content in parts.items():
        made += b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (
            boundary.encode(),
            name.encode(),
            content,
        )
    return made + b"--%s--\r\n" % boundary.encode()


NAMES = {
    "utf-8": 'filename="sch\u00f6n \u4e2d.png"'.encode(),
    "latin-1": 'filename="sch\u00f6n.png"'.encode("latin-1"),
    "any bytes": b'filename="\x80\xff\xfe\x81.png"',
    "extended": b"filename*=UTF-8''sch%C3%B6n%20%E4%B8%AD.png",
    "both": b"filename=\"x.png\"; filename*=utf-8''sch%C3%B6n.png",
    "continued": b"filename*0*=utf-8''sch%C3; filename*1*=%B6n.png",
    "a broken extension": b"filename*=utf-8''%ff%zz",
    "escaped quotes": b'filename="a \\"b\\" c.png"',
    "bare quotes": b'filename="a "b" c.png"',
    "percent": b'filename="a%22b%22.png"',
    "unquoted": b"filename=a.png",
    "empty": b'filename=""',
    "a path": b'filename="C:\\photos\\a.png"',
    "semicolons": b'filename="a; b; c.png"',
}


@pytest.mark.parametrize("name", NAMES)
async def test_file_names_in_any_bytes(server, name):
    """A file's name, which nobody reads, may be written in any way and encoding."""
    body = MODEL + part("file", PNG, b"; " + NAMES[name]) + END
    status, answer = await by_hand(server, body)
    assert status == 200, answer


async def test_field_names_in_utf8(server):
    """A field's name is read as UTF-8: what is wrong with it is told in its own letters."""
    body = MODEL + FILE + part("gr\u00f6\u00dfe", b"1") + END
    status, answer = await by_hand(server, body)
    assert (status, detail_of(answer)) == (422, "gr\u00f6\u00dfe: unknown parameter")


@pytest.mark.parametrize("name", ["image", "picture", "upload", "confidence"])
async def test_a_file_under_another_name(http, name):
    """A file that comes under another field's name is not looked for: it is told how to send it."""
    made = form(image=None)
    made.add_field(name, PNG, filename="photo.png", content_type="image/png")
    detail = await refused(http, 422, made)
    assert detail == f"file: field is required; send {name!r} as `file`"


@FAST
@given(
    texts=st.dictionaries(st.sampled_from(sorted(UPLOAD_FIELDS)), st.text(), max_size=4),
    file=st.binary(min_size=1, max_size=300),
    boundary=st.text(alphabet="abcXYZ0123-_", min_size=1, max_size=60),
)
def test_what_is_written_is_read(texts, file, boundary):
    """Every text and every byte of a file comes out of a form as it went in."""
    parts = {name: text.encode() for name, text in texts.items()}
    if any(
        f"\r\n--{boundary}".encode() in b"\r\n" + content for content in (*parts.values(), file)
    ):
        return
    read = forms.parse(written({**parts, "file": file}, boundary), boundary)
    assert read == (file, texts)


async def turns(data, boundary):
    """Return a form that is read, and how often others had their turn meanwhile."""
    had, over = 0, False

    async def others():
        nonlocal had
        while not over:
            had += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    read = await forms.read(data, boundary)
    over = True
    await other
    return read, had


@pytest.mark.parametrize("file", [b"\r\n--b" * 700_000, bytes(3_000_000), b"\r\n" * 1_500_000])
async def test_a_large_form_leaves_others_their_turn(file):
    """To look for a boundary that is nearly everywhere takes long; what is found is the same."""
    data = written({"model": b"m", "file": file}, "a")
    read, had = await turns(data, "a")
    assert had >= len(data) // forms.PIECE
    assert (read.file == file, read.fields) == (True, {"model": "m"})


@FAST
@given(
    data=st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
    boundary=st.sampled_from(["a", "b", "limit"]),
    size=st.integers(1, 9),
)
def test_pieces_are_read_like_the_whole(data, boundary, size):
    """Wherever a form is cut, also within a boundary."""

    def outcome():
        try:
            return forms.parse(data, boundary)
        except MataError as error:
            return error.status

    whole = outcome()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(forms, "PIECE", size)
        assert outcome() == whole


@FAST
@given(
    data=st.binary(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
    boundary=st.text(max_size=8),
)
def test_anything_is_split_or_refused(data, boundary):
    """Whatever a body holds: parts come out, or an error of the API."""
    try:
        file, texts = forms.parse(data, boundary)
    except MataError as error:
        assert error.status in {400, 422}  # noqa: PT017 - both outcomes are right
        return
    assert isinstance(file, bytes)
    assert file
    assert "file" not in texts
