"""What one front-end tells another of who asks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest

from mataserver.frontends.identity_assertions import WINDOW, IdentityAssertions, InvalidAssertion
from mataserver.frontends.resource_ids import tag_of
from mataserver.principals import Principal

SECRET = b"s" * 32
TO = "00ab"
ANNA = Principal(
    "user:1", "Anna", "user", frozenset({"infer"}), grant="g", until=9e9, background=True
)


class Hands:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1e9

    def __call__(self):
        """Return the time."""
        return self.now


def pair(secret=SECRET):
    """Return who gives words and who takes them, and their clock."""
    clock = Hands()
    return IdentityAssertions(SECRET, clock), IdentityAssertions(secret, clock), clock


def test_a_principal_arrives_whole():
    """Who asks has the same id, scopes, grant and time at the front-end that takes the word."""
    giving, taking, _ = pair()
    taken = taking.verify(giving.issue(ANNA, "GET", "/v1/x?a=1", TO), "GET", "/v1/x?a=1", TO)
    assert taken == ANNA
    assert (taken.scopes, taken.grant, taken.until, taken.background) == (
        ANNA.scopes,
        "g",
        9e9,
        True,
    )


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/v1/x"), ("GET", "/v1/y")])
def test_a_word_is_for_one_request(method, path):
    """It counts for no other method and no other path."""
    giving, taking, _ = pair()
    with pytest.raises(InvalidAssertion, match="another request"):
        taking.verify(giving.issue(ANNA, "GET", "/v1/x", TO), method, path, TO)


def test_a_word_is_for_one_front_end():
    """Who was given it cannot ask another one with it."""
    giving, taking, _ = pair()
    with pytest.raises(InvalidAssertion, match="another request"):
        taking.verify(giving.issue(ANNA, "GET", "/v1/x", TO), "GET", "/v1/x", "00cd")


def test_a_word_is_taken_once():
    """Who overheard it gains nothing by saying it again, also when its time is nearly over."""
    giving, taking, clock = pair()
    word = giving.issue(ANNA, "GET", "/v1/x", TO)
    taking.verify(word, "GET", "/v1/x", TO)
    clock.now += WINDOW - 1
    with pytest.raises(InvalidAssertion, match="used already"):
        taking.verify(word, "GET", "/v1/x", TO)


@pytest.mark.parametrize("path", ["/" + "x" * 4_000, "/" + "x" * 8_000, '/?"' * 2_500])
def test_a_word_fits_into_a_header(path):
    """However long a path is, and whatever is in it, its word is for it alone."""
    giving, taking, _ = pair()
    word = giving.issue(ANNA, "GET", path, TO)
    assert len(word) < 8_000
    assert taking.verify(word, "GET", path, TO) == ANNA
    with pytest.raises(InvalidAssertion, match="another request"):
        taking.verify(giving.issue(ANNA, "GET", path, TO), "GET", path + "x", TO)


def test_a_word_holds_the_path_itself():
    """Older front-ends know no other: theirs are taken as well, and take one of usual length."""
    giving, taking, _ = pair()
    path = "/v1/x?" + "x" * 4_000
    payload = giving.issue(ANNA, "GET", path, TO).partition(".")[0]
    assert json.loads(base64.urlsafe_b64decode(payload))["path"] == path
    long = path * 2
    claims = json.loads(base64.urlsafe_b64decode(payload)) | {"path": long}
    theirs = base64.urlsafe_b64encode(json.dumps(claims).encode())
    signed = f"{theirs.decode()}.{hmac.new(SECRET, theirs, hashlib.sha256).hexdigest()}"
    assert taking.verify(signed, "GET", long, TO) == ANNA


@pytest.mark.parametrize("late", [WINDOW + 1, -WINDOW - 1])
def test_a_word_has_its_time(late):
    """One of another time is refused, in words that name the clocks."""
    giving, taking, clock = pair()
    word = giving.issue(ANNA, "GET", "/v1/x", TO)
    clock.now += late
    with pytest.raises(InvalidAssertion, match="clocks"):
        taking.verify(word, "GET", "/v1/x", TO)


@pytest.mark.parametrize("secret", [b"another" * 5, b""])
def test_another_secret_is_not_trusted(secret):
    """What was signed with another secret is nobody's word."""
    giving, taking, _ = pair(secret)
    with pytest.raises(InvalidAssertion, match="no token of a front-end"):
        taking.verify(giving.issue(ANNA, "GET", "/", TO), "GET", "/", TO)


@pytest.mark.parametrize("value", ["", ".", "a.b", "e30=.00", "\udcff.\udcff", "ä"])
def test_nonsense_is_not_trusted(value):
    """Whatever the header says, the answer is 401 and no failure."""
    with pytest.raises(InvalidAssertion) as caught:
        IdentityAssertions(SECRET).verify(value, "GET", "/", TO)
    assert caught.value.status == 401


def test_a_changed_word_is_not_trusted():
    """Not a letter of it can be another one."""
    giving, taking, _ = pair()
    word = giving.issue(ANNA, "GET", "/", TO)
    for at in range(0, len(word), 7):
        changed = word[:at] + ("A" if word[at] != "A" else "B") + word[at + 1 :]
        with pytest.raises(InvalidAssertion):
            taking.verify(changed, "GET", "/", TO)


@pytest.mark.parametrize(
    ("identity", "tag"),
    [
        ("sess_0123456789ab", "0123"),
        ("session-0123456789abcdef", "0123"),
        ("door", ""),
        ("sess_", ""),
        ("sess_0123", ""),
        ("../0123456789ab", ""),
        ("sess_0123456789aX", ""),
    ],
)
def test_the_tag_of_an_id(identity, tag):
    """An id tells its front-end by the digits after its first word, a name by nothing."""
    assert tag_of(identity) == tag
