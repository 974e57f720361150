"""The hook ``auth_mode``: a plugin lets the environment say that everybody is answered."""

from __future__ import annotations

import pytest

from mataserver import config, plugins
from mataserver.app import composition
from mataserver.app.reload import Reload
from plugin_sources import plugin_fixture  # noqa: F401 - the fixture "plugin"

OPEN = {"OPEN": "yes"}

SWITCH = """
from mataserver import ConfigError

@hookimpl
def auth_mode(ctx):
    if "OPEN" in ctx.dotenv:
        ctx.warn("OPEN of .env is ignored")
    if "OPEN" not in ctx.environ:
        return None
    if ctx.obstacle is not None:
        raise ConfigError(f"OPEN: {ctx.obstacle}")
    ctx.warn("everybody is answered")
    return "none"
"""


@pytest.fixture
def compose(tmp_path, monkeypatch, plugin):
    """Return what composes a server with a plugin of this source, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def composed(source, environ, *, known=True, **options):
        settings, origins = config.read(environ={}, data_dir=str(tmp_path), **options)
        found = plugins.discover(settings, [plugin(source)], {})
        return composition.build(
            settings, found, set_by=origins if known else None, environ=environ
        )

    return composed


def test_a_plugin_that_answers(compose, tmp_path, caplog):
    """The server of a program answers everybody, makes no key, warns, and says where it is from."""
    composed = compose(SWITCH, OPEN)
    assert composed.settings.auth_mode == composed.server_settings.auth_mode == "none"
    assert composed.set_by["auth_mode"] == "environment"
    assert not (tmp_path / "api_key").exists()
    assert "everybody is answered" in caplog.text


def test_a_plugin_that_says_nothing(compose, tmp_path):
    """The server asks for its key, which it makes."""
    composed = compose(SWITCH, {})
    assert composed.settings.auth_mode == "api_key"
    assert "auth_mode" not in composed.set_by
    assert (tmp_path / "api_key").read_text().strip() == composed.new_key


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": "0.0.0.0"}, "OPEN: host is 0.0.0.0"),
        ({"api_keys": ["secret"]}, "OPEN: api_keys are set"),
        ({"auth_mode": "api_key"}, "OPEN: auth_mode is api_key"),
        ({"known": False}, "OPEN: auth_mode is api_key"),
    ],
)
def test_a_plugin_that_refuses(compose, tmp_path, options, told):
    """What it says is the error of the start, which has made no key by then.

    Where the origins of settings are unknown, whatever ``auth_mode`` they have was meant.
    """
    with pytest.raises(config.ConfigError, match=f"^{told}$"):
        compose(SWITCH, OPEN, **options)
    assert not (tmp_path / "api_key").exists()


def test_what_the_settings_say_counts_more(compose):
    """With ``auth_mode: none`` nothing is in the way, and the origin is that of the setting."""
    composed = compose(SWITCH, OPEN, auth_mode="none", host="0.0.0.0")
    assert composed.settings.auth_mode == "none"
    assert composed.set_by["auth_mode"] == "option"


@pytest.mark.parametrize(
    ("body", "options", "told"),
    [
        ("return 'none'", {"host": "0.0.0.0"}, "auth_mode() gave 'none', and host is 0.0.0.0"),
        ("return 'none'", {"auth_mode": "api_key"}, "and auth_mode is api_key"),
        ("return True", {}, "auth_mode() must return None or 'none', not True"),
        ("return []", {}, "auth_mode() must return None or 'none', not []"),
        ("raise SystemExit(3)", {}, "SystemExit: 3"),
    ],
)
def test_a_plugin_that_does_not_keep_to_it(compose, body, options, told):
    """It is not used, and the server asks for keys."""
    composed = compose(f"@hookimpl\ndef auth_mode(ctx): {body}", {}, **options)
    assert composed.settings.auth_mode == "api_key"
    assert told in composed.plugins.found[0].error


def test_variables_of_dotenv(compose, tmp_path, monkeypatch, caplog):
    """They are told apart from the environment's."""
    monkeypatch.delenv("OPEN", raising=False)
    (tmp_path / ".env").write_text("OPEN=yes")
    composed = compose(SWITCH, None)
    assert composed.settings.auth_mode == "api_key"
    assert "OPEN of .env is ignored" in caplog.text


FUSSY = """
from mataserver import ConfigError

@hookimpl
def auth_mode(ctx):
    if ctx.obstacle == "host is 0.0.0.1":
        raise ConfigError("OPEN: not here")
    if ctx.obstacle == "host is 0.0.0.2":
        raise SystemExit(3)
    return "none" if "OPEN" in ctx.environ else None
"""


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("0.0.0.0", "auth_mode() gave 'none', and host is 0.0.0.0"),
        ("0.0.0.1", "OPEN: not here"),
        ("0.0.0.2", "ExitError"),
    ],
)
async def test_a_reload_that_the_plugin_refuses(compose, tmp_path, caplog, host, told):
    """The plugin stays in use and the server as it is; the log says what the next start finds."""
    composed = compose(FUSSY, OPEN)

    def load():
        return config.read(environ={}, directory=tmp_path, data_dir=str(tmp_path), host=host)

    await Reload(composed, load).run()
    assert composed.settings.auth_mode == "none"
    assert [plugin.error for plugin in composed.plugins.found] == [None]
    assert f"refuses the configuration: {told}" in caplog.text
    assert "restart the server to change host, auth_mode" in caplog.text
