"""Uploads whose head is known: by any boundary, and a client cannot tell them from others."""

from __future__ import annotations

import re

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from api_answers import until
from conftest import picture, register
from known_heads import label, peer_of
from mataserver import testing
from mataserver.errors import MataError
from mataserver.http import forms, head_cache, infer_repeats
from odd_requests import PICTURE, VARYING, request

__all__: list[str] = []

UPLOAD = "/v1/infer/upload"


SECOND = "a-second-boundary"
MODEL = {"model": "fake-detect"}


def form(
    boundary: str,
    *,
    said: str | None = None,
    image: bytes = PICTURE,
    fields: dict[str, str] | None = None,
    name: str = "a.jpg",
    headers: tuple[str, ...] = (),
) -> bytes:
    """Return an upload; ``said`` is what its head tells of the boundary."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in (MODEL if fields is None else fields).items()
    ]
    file = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = "".join([*parts, file]).encode() + image + f"\r\n--{boundary}--\r\n".encode()
    kind = f"Content-Type: multipart/form-data; boundary={boundary if said is None else said}"
    return request("POST", UPLOAD, kind, *headers, body=body)


@pytest.fixture
async def peer(server):
    """A connection to a server that knows the head of uploads."""
    async with peer_of(server) as connected:
        yield await connected.warm(form("the-first-boundary"))


async def test_any_boundary_is_known(peer):
    """Clients make one anew for each form, and their images and fields differ."""
    for number, boundary in enumerate(
        (
            "----WebKitFormBoundary7MA4YWxkTrZu0gW",
            "0f" * 16,
            "------------------------d74496d6",
            "x" * 70,
        )
    ):
        width = 64 + number
        fields = {**MODEL, "confidence": "0.1"} if number % 2 else None
        asked = form(
            boundary, image=picture(width, 48, form="JPEG"), fields=fields, name=f"{number}.jpg"
        )
        found, hits = await peer.hits(asked)
        assert (found[0], label(found), hits) == (200, f"{width}x48", 1)
        assert (b'"faint"' in found[2]) == bool(number % 2)


async def test_a_form_in_pieces(peer):
    """A body may come in pieces, cut within a boundary too."""
    asked = form("another-boundary")
    head = asked.index(b"\r\n\r\n") + 4
    cut = asked.rindex(b"another") + 3
    found, hits = await peer.hits(asked[: head + 10], asked[head + 10 : cut], asked[cut:])
    assert (found[0], label(found), hits) == (200, "64x48", 1)


@pytest.mark.parametrize(
    "said", ["", "short", '""', "y" * 71, "with space", "a-long;enough", "äöüäöüäöü"]
)
async def test_other_boundaries_are_part_of_a_head(peer, said):
    """What few clients write is read by the parser that has always read it."""
    (_, _, _), hits = await peer.hits(form("irrelevant-here", said=said))
    assert hits == 0


CASES = {
    "the same": form("the-first-boundary"),
    "another": form(SECOND),
    "in quotes": form("a-quoted-boundary", said='"a-quoted-boundary"'),
    "not that of the body": form("the-bodys-boundary", said="the-heads-boundary"),
    "of which the body's begins with it": form("the-boundary-s", said="the-boundary"),
    "that begins with the body's": form("the-boundary", said="the-boundary-s"),
    "no model": form(SECOND, fields={}),
    "an absent model": form(SECOND, fields={"model": "absent"}),
    "a wrong parameter": form(SECOND, fields={**MODEL, "confidence": "9"}),
    "an unknown parameter": form(SECOND, fields={**MODEL, "speed": "9"}),
    "no picture": form(SECOND, image=b"nothing"),
    "an empty file": form(SECOND, image=b""),
    "the boundary within the file": form(SECOND, image=PICTURE + b"\r\n--" + SECOND.encode()),
    "another's within the file": form(SECOND, image=PICTURE + b"\r\n--the-first-boundary--"),
    "cut off": request(
        "POST",
        UPLOAD,
        "Content-Type: multipart/form-data; boundary=" + SECOND,
        body=b"--a-second",
    ),
    "two types": form(SECOND, headers=("Content-Type: image/jpeg",)),
    "a page's": form(SECOND, headers=("Origin: https://a.example",)),
    "for MessagePack": form(SECOND, headers=("Accept: application/msgpack",)),
    "as events": form(SECOND, headers=("Accept: text/event-stream",)),
    "the last": form(SECOND, headers=("Connection: close",)),
}


async def told(served, asked):
    """Return what is answered to a form behind known ones, without what differs by time."""
    async with peer_of(served) as peer:
        for boundary in ("the-first-boundary", "the-third-boundary"):
            assert (await peer.ask(form(boundary)))[0] == 200
        peer.writer.write(asked + request("GET", "/v1/nothing", "Connection: close"))
        return VARYING.sub(b"...", await peer.rest())


async def test_no_client_can_tell(tmp_path):
    """Forms of every kind behind known ones are answered as without them."""
    found = []
    for way in (True, False):
        register(tmp_path / str(way), {"fake-detect": "detect"})
        async with testing.serving(tmp_path / str(way), engine="thread", short_way=way) as served:
            found.append({name: await told(served, asked) for name, asked in CASES.items()})
            assert (served.composed.heads.hits > len(CASES)) == way
    differing = {name: (found[0][name], found[1][name]) for name in CASES}
    assert not {name: both for name, both in differing.items() if both[0] != both[1]}


@pytest.fixture
def parsed(monkeypatch):
    """The forms that were parsed."""
    found, parse = [], forms.parse
    monkeypatch.setattr(forms, "parse", lambda *given: found.append(given) or parse(*given))
    return found


async def test_a_form_like_the_last_is_not_parsed(peer, parsed):
    """Its boundary and its file may be others; another field or another name is read."""
    image = picture(65, 48, form="JPEG")
    for asked, times in (
        (form("a-new-boundary", image=image), 0),
        (form("another-boundary", image=image, name="other.jpg"), 1),
        (form("one-more-boundary", image=image, name="other.jpg"), 1),
        (form("one-more-boundary", image=image, fields={**MODEL, "confidence": "0.1"}), 2),
        (form("the-last-boundary", image=image, fields={**MODEL, "confidence": "0.1"}), 2),
    ):
        found, hits = await peer.hits(asked)
        assert (found[0], label(found), hits, len(parsed)) == (200, "65x48", 1, times)
    assert b'"faint"' in found[2]


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "CONTENT-LENGTH "])
async def test_a_file_that_states_its_length_is_counted(peer, name):
    """A parser compares it with the file, so it does so for each form with the same head."""
    image = picture(65, 48, form="JPEG")
    stated = f'a.jpg"\r\n{name}: {len(image)}\r\nContent-Description: "x'
    for _ in range(2):
        assert (await peer.ask(form("a-new-boundary", image=image, name=stated)))[0] == 200
    for file in (image + b"x", image[:-1]):
        assert (await peer.ask(form("a-new-boundary", image=file, name=stated)))[0] == 400
    assert (await peer.ask(form("a-new-boundary", image=image, name=stated)))[0] == 200


async def test_forms_that_always_differ_are_no_longer_remembered(peer, parsed):
    """What is like the one that was remembered last is still recognized."""
    names = [f"{number}.jpg" for number in range(infer_repeats.MAX_MISSES + 1)]
    for name in names * 2:
        assert (await peer.ask(form("a-new-boundary", name=name)))[0] == 200
    assert len(parsed) == 2 * len(names) - 1


async def test_a_model_that_is_removed_and_comes_back(peer, parsed, http, server):
    """A form like the last is about the models that there are now."""
    asked = form("a-new-boundary")
    assert ((await peer.ask(asked))[0], len(parsed)) == (200, 0)
    async with http.delete("/v1/models/fake-detect") as response:
        assert response.status == 200
    assert ((await peer.ask(asked))[0], len(parsed)) == (404, 1)
    register(server.composed.settings.data_path, {"fake-detect": "detect"})

    async def back():
        return (await peer.ask(asked))[0] == 200

    await until(back)
    assert len(parsed) > 1


PARTS = st.lists(
    st.sampled_from([b"--", b"-", b"\r\n", b"a", b"ab", b"--?", b"\r\n--?", b"\r\n--ab--\r\n"]),
    max_size=6,
).map(b"".join)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    files=st.tuples(PARTS, PARTS),
    texts=st.lists(PARTS, max_size=2),
    place=st.integers(0, 2),
    boundaries=st.tuples(*[st.sampled_from([b"a", b"ab", b"-", b"--"])] * 2),
)
@example(files=(b"f", b"f"), texts=[b"a--?a"], place=1, boundaries=(b"a", b"ab"))
@example(files=(b"f", b"f"), texts=[b"a\r\n--ab--\r\n"], place=1, boundaries=(b"-", b"ab"))
def test_a_frame_is_read_like_the_whole(files, texts, place, boundaries):
    """A file that is found by the frame of another form is the one that a parser finds."""

    def written(file, boundary):
        parts = [b'name="%d"\r\n\r\n%s' % each for each in enumerate(texts)]
        parts.insert(place, b'name="file"\r\n\r\n' + file)
        begin = b"--?\r\nContent-Disposition: form-data; "
        form = b"".join(begin + part + b"\r\n" for part in parts) + b"--?--\r\n"
        return form.replace(b"?", boundary)

    first, second = map(written, files, boundaries)
    try:
        whole = forms.parse(first, boundaries[0].decode())
    except MataError:
        return
    frame = forms.frame(first, boundaries[0], whole.file)
    event("no frame" if frame is None else "a frame")
    found = frame and frame.file_in(second, boundaries[1])
    event("no file" if found is None else "a file")
    if found is not None:
        assert forms.parse(second, boundaries[1].decode()) == (found, whole.fields)
    elif frame is not None and not any(b"-" in part for part in (*texts, *files)):
        assert not files[1]  # nothing else is a reason


async def test_a_head_is_no_other(peer):
    """All of a head but its digits and its boundary is known to the byte."""
    asked = form("the-first-boundary")
    for old, new in (
        (b"boundary=the", b"Boundary=the"),
        (b"form-data; b", b"form-data;b"),
        (b"Host: here", b"Host: there"),
        (b"boundary=the-first-boundary", b'boundary="the-first-boundary"'),
        (b"the-first-boundary\r\nContent-L", b"the-first-boundary; a=b\r\nContent-L"),
    ):
        assert old in asked
        (status, _, _), hits = await peer.hits(asked.replace(old, new, 1))
        assert (status, hits) == (200, 0)


def test_what_is_cut_out_of_a_head():
    """Wherever they stand, the digits and the boundary are cut, and nothing is without a mark."""
    lines = [b"Content-Length: 12", b"Content-Type: multipart/form-data; boundary=0123456789"]
    keys = set()
    for order in (lines, lines[::-1]):
        head = b"\r\n".join([b"POST / HTTP/1.1", *order, b"", b""])
        found = head_cache.parse_start(head + b"x")
        assert (found.boundary, found.size, found.end) == (b"0123456789", 12, len(head))
        shorter = re.sub(rb"\b12\b|0123456789", b"", head)
        assert found.key == head_cache.MARK + shorter
        # A head that is that already is another one: its boundary is empty.
        literal = head_cache.parse_start(re.sub(rb"0123456789", b"", head))
        assert literal.key == shorter
        keys |= {found.key, literal.key}
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("digits", "size", "known", "uncertain"),
    [
        (b"1", 1, True, False),
        (b"9999999", 9_999_999, True, False),
        (b"10000000", 0, False, True),
        (b"012", 12, False, False),
        (b"0", 0, False, True),
        (b"+1", 0, False, True),
    ],
)
def test_which_lengths_are_read(digits, size, known, uncertain):
    """Up to seven digits; a head whose digits begin with 0 is not looked up: no client sends it."""
    found = head_cache.parse_start(b"POST / HTTP/1.1\r\nContent-Length: %b\r\n\r\n" % digits)
    assert (found.size, bool(found.key), found.is_uncertain) == (size, known, uncertain)


def test_how_long_a_head_may_be():
    """One of 2,048 bytes is looked at, a longer one is the usual parser's."""
    start = b"POST / HTTP/1.1\r\nContent-Length: 1\r\nX: "
    room = head_cache.MAX_HEAD - len(start) - len(b"\r\n\r\n")
    for more, read in ((0, True), (1, False)):
        head = start + b"x" * (room + more) + b"\r\n\r\n"
        assert (head_cache.parse_start(head + b"1") is not None) is read


def test_how_long_a_text_may_be():
    """A text of 65,536 bytes is one; with a byte more it is refused."""
    longest = b"x" * forms.MAX_FIELD_BYTES
    assert forms.field_text("a", longest).encode() == longest
    with pytest.raises(MataError, match="a: longer than 65536 bytes"):
        forms.field_text("a", longest + b"x")


def test_a_head_with_two_types_keeps_its_boundary():
    """Which of them counts is the usual parser's to say: nothing is cut out but the digits."""
    form = b"Content-Type: multipart/form-data; boundary=0123456789"
    lines = [b"POST / HTTP/1.1", b"Content-Length: 1", form, b"Content-Type: image/png", b"", b""]
    head = b"\r\n".join(lines)
    found = head_cache.parse_start(head + b"x")
    assert (found.boundary, found.key) == (b"", head.replace(b"Length: 1", b"Length: "))


@pytest.mark.parametrize("length", [b"", b"Content-Length: 1\r\n"])
@pytest.mark.parametrize(
    ("line", "uncertain"),
    [(b"X: y", False), (b"Transfer-Encoding: chunked", True), (b"UPGRADE: h2c", True)],
)
def test_what_may_end_elsewhere(length, line, uncertain):
    """A length says nothing beside these headers, and nothing at all of a CONNECT."""
    head = b"POST / HTTP/1.1\r\n" + length + line + b"\r\n\r\n"
    assert head_cache.parse_start(head).is_uncertain is uncertain
    assert head_cache.parse_start(head.replace(b"POST", b"CONNECT", 1)).is_uncertain
