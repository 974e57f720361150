"""docs/security.md against the code: limits, open routes, variables, fixed numbers."""

from __future__ import annotations

import re

import msgspec
import pytest
import yaml

from markdown_pages import quoted, read, rows
from mataserver import config, plugins, testing
from mataserver.app import composition as app
from mataserver.app import running
from mataserver.engines import confinement, zygote
from mataserver.http import browsers, forms, json_body, middleware, stream
from mataserver.processes import variables
from mataserver.sources import pulls
from mataserver_accounts import login_routes
from mataserver_jobs import uploads

PAGE = read("security.md")


def defaults(kind, prefix=""):
    """Return the settings of a kind with their defaults."""
    fields = msgspec.structs.fields(kind)
    return {prefix + field.name: field.default for field in fields}


def test_every_limit_is_a_setting():
    """Each limit of the table is a setting with that default."""
    settings = defaults(config.Settings) | defaults(config.ModelSettings, "models[].")
    described = {
        quoted(row[1]): yaml.safe_load(quoted(row[2]))
        for row in rows(PAGE, "limit")
        if len(row) == 4
    }
    assert described
    assert described == {name: settings[name] for name in described}


def test_every_limiting_setting_is_a_limit():
    """Whatever is named as a maximum or a time out among the settings stands in the table."""
    pattern = re.compile(r"^max_|_timeout$|_limit$|_ttl$")
    limiting = {name for name in config.Settings.__struct_fields__ if pattern.search(name)}
    described = {quoted(row[1]) for row in rows(PAGE, "limit") if len(row) == 4}
    assert limiting <= described


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The routes of a server with OIP, which comes with one, and the fake plugin."""
    folder = tmp_path_factory.mktemp("data")
    points = [testing.FAKE, *testing.installed("oip")]
    settings = config.load(environ={}, directory=folder, data_dir=str(folder))
    return app.build(settings, plugins.discover(settings, points)).table.routes


def test_strangers_send_little(table):
    """What a route that is open to everybody reads is short: all bodies share one room."""
    read = [route for route in table if route.public and route.request]
    assert read
    assert [route.path for route in read if not 0 < (route.max_body or 0) <= 65_536] == []


def test_open_routes_are_those_of_the_code(table):
    """The table holds every route that answers without credentials, and no other."""
    described = {
        tuple(each.split(" ", 1))
        for row in rows(PAGE, "open route")
        for each in re.findall(r"`([^`]+)`", row[0])
    }
    assert described == {(route.method, route.path) for route in table if route.public}


def test_only_sockets_take_a_key_in_their_url(table):
    """``?token=`` counts on the stream's route alone, of the server's own."""
    assert {route.path for route in table if route.socket} == {"/v1/stream/{session_id}"}


def test_variables_are_those_of_the_code():
    """The table holds what each child gets."""
    found = [(row[0], set(re.findall(r"`([^`]+)`", row[1]))) for row in rows(PAGE, "who gets it")]
    everybody = set().union(*(names for who, names in found if who == "every child"))
    assert everybody == set(variables.EVERY_CHILD)
    assert dict(found)["the download"] == set(variables.HUB)
    assert dict(found)["pip"] == set(variables.PIP)


def test_what_models_may_do_is_that_of_the_code():
    """The page names every cache that may be filled."""
    assert set(confinement.CACHES) == set(re.findall(r"`(\w+_CACHE_\w+|MPLCONFIGDIR)`", PAGE))


def test_numbers_that_no_setting_moves():
    """They are those of the code."""
    told = {row[0]: row[1] for row in rows(PAGE, "limit") if len(row) == 3}

    def numbers(name):
        return [int(each.replace(",", "")) for each in re.findall(r"[\d,]*\d", told[name])]

    assert numbers("bytes of JSON beside its images and long texts") == [
        json_body.MAX_STRUCTURE_BYTES
    ]
    assert numbers("characters of a `Content-Type`") == [middleware.MAX_CONTENT_TYPE]
    assert numbers("fields of a form; bytes of each") == [forms.MAX_FIELDS, forms.MAX_FIELD_BYTES]
    assert numbers("pulls at a time; that wait") == [pulls.RUNNING, pulls.WAITING]
    assert numbers("sockets that show one camera") == [stream.MAX_VIEWERS]
    assert numbers("a WebSocket without a valid key") == [stream.CLOSE_TIMEOUT]
    slots = numbers(next(row for row in told if row.startswith("log-ins")))
    of_one, of_few = login_routes.MAX_CONCURRENT_OF_ADDRESS, login_routes.MAX_CONCURRENT_OF_ACTIVE
    assert slots == [login_routes.MAX_CONCURRENT, of_one, of_few]
    assert numbers(next(row for row in told if row.startswith("uploads"))) == [
        uploads.MAX_UPLOADS_OF_ONE
    ]
    hours, minutes = browsers.SESSION_SECONDS / 3600, browsers.CODE_SECONDS / 60
    assert numbers("a browser's session; a sign-in link") == [hours, minutes]
    assert numbers("idle connection") == [running.CONNECTION_OPTIONS["keepalive_timeout"]]
    assert f"`oom_score_adj` {zygote.OOM_SCORE}" in PAGE
