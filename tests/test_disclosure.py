"""The settings as ``GET /v1/settings`` tells them: values, origins, and no secret."""

from __future__ import annotations

from typing import Annotated

import aiohttp
import msgspec
from msgspec import Meta, Struct

from mataserver import config, testing
from mataserver.http.settings import list_settings
from mataserver.plugins import Plugin, Plugins


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a plugin, of which some are secret."""

    url: str | None = None
    smtp_password: str = ""
    phrase: Annotated[str, Meta(extra={"secret": True})] | None = None
    max_tokens: int = 7
    hook: str = ""


class Lens(Struct):
    """A part of a setting, most of it by default."""

    name: str
    zoom: float = 1.0


class Lenses(Struct):
    """Settings that hold structures."""

    lenses: list[Lens] = []


class Filming(Struct):
    """Settings that hold cameras."""

    cameras: list[dict[str, str]] = []


def told(settings, set_by, *found):
    """Return what is told, by name."""
    return {each.name: each for each in list_settings(settings, set_by, Plugins(list(found)))}


def test_each_setting_tells_where_it_came_from(tmp_path):
    """An option wins over the environment, then come .env, YAML and the default."""
    (tmp_path / "mataserver.yaml").write_text("port: 1\nqueue_limit: 2\nhost: a\nmax_tokens: 5\n")
    (tmp_path / ".env").write_text("MATA_SERVER_QUEUE_LIMIT=3\nMATA_SERVER_HOST=b\n")
    environ = {"MATA_SERVER_HOST": "c", "SERVER_PORT": "4"}
    settings, set_by = config.read(None, environ=environ, directory=tmp_path, port=6)
    found = told(settings, set_by)
    pairs = {name: (each.value, each.origin) for name, each in found.items()}
    assert pairs["port"] == (6, "option")
    assert pairs["host"] == ("c", "environment")
    assert pairs["queue_limit"] == (3, "dotenv")
    assert pairs["max_tokens"] == (5, "yaml")
    assert pairs["log_level"] == ("info", "default")
    core = set(config.Settings.__struct_fields__) - {"plugins"}
    assert set(found) == core | {"plugins.strict", "plugins.disabled"}


def test_what_an_entry_leaves_out_is_no_other_origin(tmp_path):
    """A plugin's list of the file is read with defaults, and came from the file all the same."""
    written = [{"name": "wide"}, {"name": "tele", "zoom": 3}]
    given = {"filming": {"lenses": written}}
    settings, set_by = config.read(environ={}, directory=tmp_path, plugins=given)
    read = Lenses([Lens("wide"), Lens("tele", 3.0)])
    assert (
        told(settings, set_by, Plugin("filming", settings=read))["plugins.filming.lenses"].origin
        == "yaml"
    )
    other = Lenses([Lens("wide")])  # a variable of ``.env`` wins
    assert (
        told(settings, set_by, Plugin("filming", settings=other))["plugins.filming.lenses"].origin
        == "dotenv"
    )


def test_no_secret_is_told(tmp_path):
    """Keys, passwords, users and queries of addresses, and a plugin's secrets are hidden."""
    secret = "hush-hush"
    camera = {
        "name": "door",
        "source": f"rtsp://u:{secret}@cam:554/{secret}?x={secret}",
        "model": "m",
    }
    keys = [secret, {"key": secret + "2", "name": "cams", "scopes": ["infer"]}]
    given = {
        "mail": {"smtp_password": secret},
        "broken": {"anything": secret},
        "disabled": ["broken"],
        "filming": {"cameras": [camera]},
    }
    settings, set_by = config.read(
        environ={},
        directory=tmp_path,
        api_key=secret,
        api_keys=keys,
        plugins=given,
    )
    options = Options(
        url=f"postgresql+asyncpg://app:{secret}@db/jobs",
        smtp_password=secret,
        phrase=secret,
        hook=f"https://example.org/hook?a=1&token={secret}&b=2",
    )
    mail = Plugin("mail", settings=options)
    filming = Plugin("filming", settings=Filming([camera]))
    found = told(settings, set_by, mail, filming, Plugin("broken", error="switched off"))
    assert secret not in msgspec.json.encode(list(found.values())).decode()
    assert found["api_keys"].value[1] == {"key": "***", "name": "cams", "scopes": ["infer"]}
    assert found["plugins.mail.url"].value == "postgresql+asyncpg://***@db/jobs"
    assert found["plugins.mail.hook"].value == "https://example.org/hook?a=1&token=***&b=2"
    assert found["plugins.mail.smtp_password"].origin == "yaml"
    assert found["plugins.filming.cameras"].value[0]["source"] == "rtsp://cam:554/***"
    assert found["plugins.mail.max_tokens"].value == 7
    assert found["plugins.broken.anything"].value == "***"
    hidden = {name for name, each in found.items() if each.redacted is True}
    fields = ("url", "smtp_password", "phrase", "hook")
    own = {f"plugins.mail.{name}" for name in fields} | {"plugins.broken.anything"}
    assert hidden == own | {"api_key", "api_keys", "plugins.filming.cameras"}


async def test_the_server_tells_its_settings(data_dir):
    """GET /v1/settings has every setting once, with what counts, and not the key."""
    plugins = {"fake": {"load_seconds": 0.5}}
    async with (
        testing.serving(data_dir, engine="thread", plugins=plugins, queue_limit=9) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
        http.get("/v1/settings") as response,
    ):
        assert response.status == 200
        text = await response.text()
        found = {each["name"]: each for each in await response.json()}
    assert served.key not in text
    assert found["queue_limit"] == {"name": "queue_limit", "value": 9, "origin": "option"}
    assert found["plugins.fake.load_seconds"]["value"] == 0.5
    assert found["plugins.fake.load_seconds"]["origin"] == "yaml"
    assert found["plugins.fake.load_fails"]["origin"] == "default"
