"""Plugins that are installed while the server runs, in a process that looks for them."""

from __future__ import annotations

import shutil
import sys

import aiohttp
import pytest

from cli_terminal import Terminal
from mataserver import config, testing
from mataserver.contract.backend import ModelFiles
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Registry
from mataserver.plugins import discover
from mataserver.plugins.sites import CHECK_INTERVAL, SETTLING_SECONDS, SiteDirectories

GEAR = """
from mataserver import Backend, hookimpl

def load(spec, ctx):
    raise NotImplementedError

@hookimpl
def backends():
    yield Backend(name="gear", task="ocr", source="pip", load=load)
"""
ROUTES = """
from mataserver import hookimpl

@hookimpl
def service(ctx):
    raise NotImplementedError
"""
DEPOT = """
from mataserver import SourceSpec, hookimpl

def fetch(ctx):
    raise NotImplementedError

@hookimpl
def sources():
    yield SourceSpec(name="depot", fetch=fetch)
"""
LOOKED = (
    GEAR.replace('"gear"', '"looked"').replace('source="pip"', 'source="any", accepts=accepts')
    + """
meanwhile = bool

def accepts(files):
    meanwhile()
    return False
"""
)
FILES = ModelFiles("gear", "pip")


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    made = Terminal(tmp_path, monkeypatch)
    monkeypatch.syspath_prepend(str(made.site))
    return made


class Clock:
    """A clock that is set by hand, ahead of every change so far."""

    def __init__(self):
        self.now = 4e9

    def __call__(self):
        return self.now


def found_later(clock=None):
    """Return the installed plugins, which are looked for again."""
    found = discover(config.Settings())
    found.sites = SiteDirectories(clock or Clock())
    return found


def test_a_source_that_is_asked_for_is_found(terminal):
    """A name with a colon is looked for among the plugins that were installed meanwhile."""
    found = found_later()
    assert found.source("depot") is None
    terminal.install("depot-late", DEPOT, mataserver={"depot": "depot_late"})
    spec, plugin = found.source("depot")
    assert (spec.name, plugin.installed_late, plugin.note) == ("depot", True, None)
    assert "depot" in found.source_names


def test_a_backend_that_is_asked_for_is_found(terminal):
    """What no plugin serves is looked for among those that were installed meanwhile."""
    found = found_later()
    assert found.find_backend(FILES, "ocr") is None
    before = [plugin.name for plugin in found.found]
    terminal.install("gear-late", GEAR, mataserver={"gear": "gear_late"})
    offer = found.find_backend(FILES, "ocr")
    assert (offer.plugin.name, offer.plugin.installed_late, offer.plugin.note) == (
        "gear",
        True,
        None,
    )
    assert {plugin.name for plugin in found.found} == {*before, "gear"}
    assert [plugin.sort_key for plugin in found.found] == sorted(
        each.sort_key for each in found.found
    )
    assert found.refresh() is False


def test_a_backend_that_another_thread_found_meanwhile_is_found(terminal):
    """Plugins that the server's own round finds during a request's look count in that request."""
    terminal.install("gear-looked", LOOKED, mataserver={"looked": "gear_looked"})
    found = found_later()
    terminal.install("gear-late", GEAR, mataserver={"gear": "gear_late"})
    sys.modules["gear_looked"].meanwhile = found.refresh
    assert found.find_backend(FILES, "ocr").plugin.name == "gear"


def test_half_an_installation_is_looked_at_again(terminal):
    """A plugin that could not be imported while pip wrote it is tried again."""
    clock = Clock()
    found = found_later(clock)
    terminal.install("gear-half", "raise OSError", mataserver={"gear": "gear_half"})
    assert found.pip_backend("gear") is None
    (broken,) = (plugin.error for plugin in found.found if plugin.name == "gear")
    assert broken == "OSError (gear_half.py, line 1)"
    (terminal.site / "gear_half.py").write_text(GEAR)
    clock.now = terminal.site.stat().st_mtime + SETTLING_SECONDS / 2
    assert found.pip_backend("gear") is not None
    assert [plugin.error for plugin in found.found if plugin.name == "gear"] == [None]


def test_looks_are_rare(terminal):
    """Nothing is read anew while nothing changes, and once a second while something does."""
    clock = Clock()
    sites = SiteDirectories(clock)
    assert sites.changed() is False
    terminal.install("gear-rare", GEAR, mataserver={"gear": "gear_rare"})
    clock.now = terminal.site.stat().st_mtime + 1
    assert [sites.changed(), sites.changed()] == [True, False]
    clock.now += CHECK_INTERVAL
    assert [sites.changed(), sites.changed()] == [True, False]
    clock.now += SETTLING_SECONDS
    assert sites.changed() is False


def test_another_version_needs_a_restart(terminal):
    """A plugin that is in use stays as it was imported, and says that there is another version."""
    terminal.install("gear-old", GEAR, mataserver={"gear": "gear_old"})
    found = found_later()
    (terminal.site / "gear_old-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: gear-old\nVersion: 2.0\n"
    )
    (terminal.site / "changed").mkdir()
    assert found.refresh() is False
    (gear,) = [plugin for plugin in found.found if plugin.name == "gear"]
    assert gear.note == "version 2.0 was installed: restart the server to use it"


def test_one_that_will_come_first_is_told_before_the_next_start(terminal):
    """Of two with a backend of one name the one in use stays; whose it will be is told at both."""
    terminal.install("mataserver-zeta", GEAR, mataserver={"zeta": "mataserver_zeta"})
    found = found_later()
    terminal.install("mataserver-alpha", GEAR, mataserver={"alpha": "mataserver_alpha"})
    assert found.refresh() is True
    known = {plugin.name: plugin for plugin in found.found}
    assert found.pip_backend("gear").plugin is known["zeta"]
    assert known["alpha"].error.startswith("backend gear: the plugin zeta has one of that name")
    assert known["zeta"].note == (
        "the plugin alpha of mataserver-alpha needs a name that this one has, and takes it at the "
        "next start of the server: plugins.disabled: [mataserver-alpha] prevents that"
    )
    assert discover(config.Settings()).pip_backend("gear").plugin.name == "alpha"


def test_what_is_not_in_use_is_told_of_no_successor(terminal):
    """Two come late, and each needs a name that the other's namesake has: one note, told once."""
    terminal.install("mataserver-zeta", GEAR, mataserver={"zeta": "mataserver_zeta"})
    found = found_later()
    terminal.install("mataserver-alpha", GEAR, mataserver={"alpha": "mataserver_alpha"})
    terminal.install("beta-copy", ROUTES, mataserver={"zeta": "beta_copy"})
    assert found.refresh() is True
    notes = {plugin.distribution: plugin.note for plugin in found.found if plugin.name == "zeta"}
    assert notes["beta-copy"] is None
    assert notes["mataserver-zeta"].startswith("the plugin alpha of mataserver-alpha needs")


def test_one_that_will_not_come_first_is_no_news(terminal):
    """The next start decides as the running server does."""
    terminal.install("mataserver-alpha", GEAR, mataserver={"alpha": "mataserver_alpha"})
    found = found_later()
    terminal.install("mataserver-zeta", GEAR, mataserver={"zeta": "mataserver_zeta"})
    assert found.refresh() is True
    assert found.pip_backend("gear").plugin.name == "alpha"
    assert [each.note for each in found.found if each.name == "alpha"] == [None]


def test_a_plugin_of_another_distribution_is_no_other_version(terminal):
    """Its name is taken, which both say; ``plugins.disabled`` with a distribution decides."""
    terminal.install("gear-old", GEAR, mataserver={"gear": "gear_old"})
    found = found_later()
    terminal.install("gear-copy", ROUTES, mataserver={"gear": "gear_copy"})
    assert found.refresh() is True
    copied, old = (plugin for plugin in found.found if plugin.name == "gear")
    assert copied.error == (
        "the name 'gear' is taken: plugins.disabled: [gear-old] turns the other one off"
    )
    assert old.note.startswith("the plugin gear of gear-copy needs a name that this one has")
    only = discover(config.Settings(plugins={"disabled": ["gear-old"]}))
    assert [each.error for each in only.found if each.distribution == "gear-copy"] == [None]


def test_one_that_was_uninstalled_is_told(terminal):
    """What of it is in memory goes on; the log and the list say what a restart will change."""
    terminal.install("gear-old", GEAR, mataserver={"gear": "gear_old"})
    found = found_later()
    shutil.rmtree(terminal.site / "gear_old-1.0.dist-info")
    assert found.refresh() is False
    (gear,) = [plugin for plugin in found.found if plugin.name == "gear"]
    assert gear.note == "it was uninstalled: restart the server to be rid of it"
    terminal.install("gear-old", GEAR, mataserver={"gear": "gear_old"})
    assert found.refresh() is False
    assert gear.note is None


def test_given_plugins_stay_the_only_ones(terminal):
    """Where the plugins were chosen, none is added."""
    found = discover(config.Settings(), [testing.FAKE])
    terminal.install("gear-other", GEAR, mataserver={"gear": "gear_other"})
    assert found.pip_backend("gear") is None


async def test_defaults_of_a_late_plugin_are_registered(terminal):
    """A plugin that comes while the server runs brings its defaults within seconds."""
    settings = config.load(environ={}, directory=terminal.home, data_dir=str(terminal.data))
    found = discover(settings, testing.installed("opencv"))
    found.sites = SiteDirectories(Clock())
    registry = Registry(terminal.data / "model_registry.json")
    catalog = Catalog(settings, registry, found)
    catalog.add_defaults()
    assert "rapidocr" not in registry.entries()
    terminal.install("gear-more", GEAR, mataserver={"gear": "gear_more"})  # and those not chosen
    await catalog.refresh()
    assert "rapidocr" in registry.entries()


def test_services_that_came_late_are_told(terminal):
    """Backends are in use at once; of a service that waits for the next start there is a word."""
    found = found_later()
    terminal.install("gear-late", GEAR, mataserver={"gear": "gear_late"})
    assert found.late_service_hint() == ""
    found.sites = SiteDirectories(Clock())
    terminal.install("gear-routes", ROUTES, mataserver={"gears": "gear_routes"})
    late = "the plugin gears came after the server's start: restart it for the routes"
    assert found.late_service_hint() == late


async def test_routes_that_wait_for_a_start_say_so(terminal):
    """While a plugin's service waits for the next start, what no route takes says so."""
    async with (
        testing.serving(terminal.data, engine="thread") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):

        async def told(method, path):
            async with http.request(method, path) as response:
                return response.status, (await response.json())["detail"]

        assert await told("GET", "/gears") == (404, "Not found")
        assert await told("PUT", "/v1/infer") == (405, "Method not allowed")
        served.composed.plugins.sites = SiteDirectories(Clock())
        terminal.install("gear-routes", ROUTES, mataserver={"gears": "gear_routes"})
        for asked in (("GET", "/gears"), ("POST", "/v1/gears/x"), ("POST", "/v1/models/gears")):
            status, detail = await told(*asked)
            assert status == 404
            assert detail.startswith("Not found: ")
            assert " gears" in detail
            assert detail.endswith("came after the server's start: restart it for the routes")
        assert await told("GET", "/v1/models/nobody") == (404, "Model not found: nobody")
