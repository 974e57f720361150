"""Plugins: found one by one, checked, and put out of use by name when they are broken."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from types import ModuleType

import aiohttp
import pytest

from mataserver.config import ConfigError, Settings
from mataserver.contract.backend import ModelFiles
from mataserver.errors import Unavailable
from mataserver.plugins import PluginError, discover
from mataserver.testing import serving
from plugin_sources import (
    HOOKS,
    given,
    names,
    plugin_fixture,  # noqa: F401 - fixtures
)


def test_a_sound_plugin_is_in_use(plugin):
    """Its backends are offered, its settings decoded, and nothing is wrong."""
    found = discover(given(mine={"size": 5}), [plugin(HOOKS)])
    assert [each.error for each in found.found] == [None]
    assert found.found[0].settings.size == 5
    assert names(found) == ["any"]
    assert found.pip_backend("any").backend.task == "classify"


def test_hooks_may_be_methods_of_an_object(plugin):
    """An entry point may name an object; its marked methods are the hooks."""
    source = """
    class Plugin:
        @hookimpl
        def backends(self):
            return (backend(),)

    thing = Plugin()
    """
    point = plugin(source)
    named = importlib.metadata.EntryPoint(point.name, f"{point.value}:thing", point.group)
    assert names(discover(Settings(), [named])) == ["any"]


def test_a_hook_may_have_another_name_in_its_module(plugin):
    """``hookimpl(specname=...)`` counts under the hook's own name."""
    source = """
    @hookimpl(specname="backends")
    def everything():
        return [backend()]
    """
    assert names(discover(Settings(), [plugin(source)])) == ["any"]


def test_a_submodule_named_like_a_hook_is_none(plugin):
    """Something that is no function may be called ``settings`` without being taken for a hook."""
    source = """
    import types
    service = settings = types.ModuleType("settings")

    @hookimpl
    def backends():
        return [backend()]
    """
    assert names(discover(Settings(), [plugin(source)])) == ["any"]


@pytest.mark.parametrize("early", [True, False])
def test_a_submodule_may_not_replace_a_hook(tmp_path, monkeypatch, early):
    """Importing ``package.backends`` late would replace the hook ``backends`` of the package."""
    name = f"replacing_{early}".lower()
    (tmp_path / name).mkdir()
    (tmp_path / name / "backends.py").write_text("names = ['any']\n")
    (tmp_path / name / "__init__.py").write_text(
        (f"from {name}.backends import names\n" if early else "")
        + "from mataserver import hookimpl\n@hookimpl\ndef backends():\n    return []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    [found] = discover(
        Settings(), [importlib.metadata.EntryPoint("replacing", name, "mataserver")]
    ).found
    assert found.error == (None if early else (
        "its module backends.py takes the place of the hook backends() once it is imported: "
        "rename the module"
    ))  # fmt: skip


BROKEN = {
    "raises at import": ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "does not parse": ("def settings(:", "SyntaxError: "),
    "imports what is not there": ("import nobody_has_this", "No module named 'nobody_has_this'"),
    "no hook at all": ("", "it implements no hook"),
    "misspelt hook": ("@hookimpl\ndef backend_list(): return []", "unknown hook 'backend_list'"),
    "unmarked hook": ("def backends(): return []", "backends() is not marked"),
    "wrong argument": (
        "@hookimpl\ndef service(context): ...",
        "takes no argument but ctx: not context",
    ),
    "exits at import": ("import sys\nsys.exit(3)", "SystemExit: 3 (plugin_under_test_"),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef backends():\n    return (yield)",
        "backends() must be one plain function",
    ),
    "settings raise": ("@hookimpl\ndef settings(): raise KeyError('x')", "KeyError: 'x'"),
    "settings are no type": ("@hookimpl\ndef settings(): return Settings()", "msgspec.Struct type"),
    "settings take anything": (
        "class Lax(Struct):\n    a: int = 1\n@hookimpl\ndef settings(): return Lax",
        "forbid_unknown_fields",
    ),
    "settings cannot travel": (
        """
        @hookimpl
        def settings():
            class Hidden(Struct, forbid_unknown_fields=True): pass
            return Hidden
        """,
        "settings(): the struct must stand at the top level",
    ),
    "settings cannot be decoded": (
        """
        class Odd(Struct, forbid_unknown_fields=True):
            a: iter = 1

        @hookimpl
        def settings(): return Odd
        """,
        "TypeError",
    ),
    "a result that nothing describes": (
        """
        class Odd(Struct):
            a: iter = 1

        @hookimpl
        def backends(): return [backend(task="broken.count", result=Odd)]
        """,
        "its result cannot be described",
    ),
    "a task with two results": (
        """
        class One(Struct):
            a: int = 1

        class Two(Struct):
            b: int = 2

        @hookimpl
        def backends():
            return [backend(name=each.__name__, task="broken.count", result=each)
                    for each in (One, Two)]
        """,
        "backend Two: its task has another result already",
    ),
    "backends raise": ("@hookimpl\ndef backends(): return 1 / 0", "ZeroDivisionError: "),
    "backends give nothing": ("@hookimpl\ndef backends(): return None", "backends, not a NoneType"),
    "backends give a string": ("@hookimpl\ndef backends(): return 'any'", "backends, not a str"),
    "backends exit": ("@hookimpl\ndef backends(): raise SystemExit", "SystemExit"),
    "it brings nothing": ("@hookimpl\ndef brings(): return None", "must return names by the names"),
    "an awaited hook": (
        "@hookimpl\nasync def backends(): return []",
        "backends() must be a plain def, not async def",
    ),
    "a wrapper that wraps nothing": (
        "@hookimpl(hookwrapper=True)\ndef backends(): return []",
        "its hooks must be plain functions",
    ),
    "a model that cannot be asked": (
        """
        class Short:
            def predict(self, images): return []

        def promise(spec, ctx) -> Short: ...

        @hookimpl
        def backends(): return [backend(load=promise)]
        """,
        "backend any: Short.predict is called with (self, images, params), and takes (self, ",
    ),
}


WRONG_BACKENDS = {
    "unknown task": ("task='smell'", "unknown task 'smell'"),
    "another plugin's task": ("task='other.count', result=Settings", "must begin with broken."),
    "a task of its own without a result": ("task='broken.count'", "needs a result"),
    "a result of a task of the API": (
        "task='broken.count', result=ClassifyResult",
        "is that of a task",
    ),
    "other detections": ("task='broken.count', result=Boxes", "must be a list or a tuple of"),
    "a result that is no struct": ("task='broken.count', result=dict", "needs a result"),
    "a result for a task of the API": ("result=Settings", "has a result already"),
    "unknown source": ("source='ftp'", "unknown source 'ftp'"),
    "unknown engine": ("engine='gpu'", "unknown engine 'gpu'"),
    "params of another kind": ("params=Settings", "params must be a mataserver.Params struct"),
    "params that are no type": ("params=Params()", "params must be a mataserver.Params struct"),
    "params with a field of a taken name": (
        "params=msgspec.defstruct('Own', [('check', bool, False)], bases=(Params,))",
        "params: the name check is taken",
    ),
    "params with another": (
        "params=msgspec.defstruct('Own', [('of_parts', int, 0)], bases=(Params,))",
        "params: the name of_parts is taken",
    ),
    "a check of more than itself": (
        "params=msgspec.defstruct('Own', [], bases=(Params,), namespace={'check': load})",
        "params.check is called with (self), and takes (",
    ),
    "hub models without accepts": ("source='hf'", "the source hf needs a function accepts"),
    "parts that are no function": ("parts={}", "parts must be a function"),
    "facts that are no function": ("facts={}", "facts must be a function"),
    "no name": ("name=''", "without a name"),
    "a mapping for pairs": ("environment={'AB': '1'}", "environment must be a tuple of pairs"),
    "a string for a tuple": ("requires='cv2'", "requires must be a tuple of strings"),
    "no batch": ("max_batch=0", "max_batch must be a whole number from 1"),
    "a step of a day": ("step_timeout=86_400.0", "step_timeout must be 0 to 3600 seconds"),
    "a word for yes or no": ("confined='no'", "confined must be True or False"),
    "a number for yes or no": ("default=1", "default must be True or False"),
    "load that is a lambda": ("load=lambda spec, ctx: Model()", "load must stand at the top level"),
    "load that is nothing": ("load=None", "load must be a function"),
    "load of the settings alone": ("load=Settings", "load is called with (spec, ctx), and takes ("),
    "accepts that is awaited, and so is always true": (
        "source='local', accepts=awaited",
        "backend any: accepts must be a plain def, not async def",
    ),
    "params with a default that is out of range": (
        "params=Wide",
        "backend any: params: the defaults: Expected `float` <= 1.0 - at `$.share`",
    ),
    "params that nothing describes": (
        "params=Vague",
        "backend any: its params cannot be described",
    ),
    "accepts of nothing": (
        "source='hf', accepts=lambda: True",
        "called with (files), and takes ()",
    ),
}


BROKEN |= {
    name: (f"@hookimpl\ndef backends(): return [backend({arguments})]", reason)
    for name, (arguments, reason) in WRONG_BACKENDS.items()
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_out_of_use_with_its_reason(plugin, source, reason):
    """Whatever is wrong with one plugin, it is named, and the next one is in use."""
    points = [plugin(source, name="broken"), plugin(HOOKS, name="sound")]
    found = discover(Settings(), points)
    broken, sound = found.found
    assert reason in broken.error
    assert "\n" not in broken.error
    assert sound.error is None
    assert names(found) == ["any"]
    assert found.usable == [sound]


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_strict_stops_the_start_at_a_broken_plugin(plugin, source, reason):
    """With ``plugins.strict`` the same plugin is an error that names it."""
    with pytest.raises(PluginError, match=r"^plugin broken: ") as caught:
        discover(given(strict=True), [plugin(source, name="broken")])
    assert reason in caught.value.detail


def test_defaults_that_no_file_may_state(plugin):
    """That of a setting may say that it is not given; params that nobody sends are not decoded."""
    source = """
    class Odd(Struct, forbid_unknown_fields=True):
        folder: str = None
        token: Annotated[str, msgspec.Meta(min_length=8)] = ""

    class Unsent(Wide, frozen=True, omit_defaults=True):
        pass

    @hookimpl
    def settings(): return Odd

    @hookimpl
    def backends(): return [backend(params=Unsent)]
    """
    found = discover(given(strict=True), [plugin(source)])
    assert names(found) == ["any"]
    assert found.found[0].settings.token == ""


def test_annotations_that_nothing_can_evaluate(plugin):
    """From Python 3.14 on a name under ``TYPE_CHECKING`` is an error when it is asked for."""
    source = """
    def unknown(self):
        raise NameError("name 'Model' is not defined")

    class Loader:
        __annotations__ = __signature__ = property(unknown)

        def __call__(self, spec, ctx):
            return Model()

    @hookimpl
    def backends(): return [backend(load=Loader())]
    """
    assert names(discover(given(strict=True), [plugin(source)])) == ["any"]


def test_strict_passes_sound_plugins(plugin):
    """``plugins.strict`` changes nothing when nothing is broken."""
    assert names(discover(given(strict=True), [plugin(HOOKS)])) == ["any"]


def test_strict_must_be_a_boolean():
    """``plugins.strict`` is a setting like any other."""
    with pytest.raises(ConfigError, match=r"plugins\.strict: expected `bool`"):
        discover(given(strict="yes"), [])


def test_a_reason_holds_no_folder(plugin):
    """An import error names the module and not where it lies."""
    found = discover(Settings(), [plugin("from mataserver import nothing_of_that_name")])
    assert "nothing_of_that_name" in found.found[0].error
    assert "__init__.py" in found.found[0].error
    assert "/" not in found.found[0].error


def test_accepts_that_fails_serves_nothing(plugin):
    """A failing ``accepts`` does not keep other plugins from serving a model."""
    bad = """
    def fails(files):
        raise KeyError(files.config["architectures"])

    @hookimpl
    def backends():
        return [backend(name="bad", source="hf", accepts=fails)]
    """
    good = "@hookimpl\ndef backends(): return [backend(source='hf', accepts=accepts)]"
    found = discover(Settings(), [plugin(bad, name="a"), plugin(good, name="b")])
    files = ModelFiles("org/model", "hf", config={"model_type": "any"})
    assert found.find_backend(files, "classify").backend.name == "any"
    assert found.find_backend(ModelFiles("org/model", "hf"), "classify") is None


def test_accepts_that_refuses_says_why(plugin):
    """A ``MataError`` of ``accepts`` is a reason, which a backend that serves the model voids."""
    picky = """
    from mataserver import MataError

    def refuses(files):
        raise MataError("a file is damaged")

    @hookimpl
    def backends():
        return [backend(name="picky", source="hf", accepts=refuses)]
    """
    good = "@hookimpl\ndef backends(): return [backend(source='hf', accepts=accepts)]"
    found = discover(Settings(), [plugin(picky, name="a"), plugin(good, name="b")])
    files = ModelFiles("org/model", "hf")
    assert found.find_backend(files, "classify") is None
    assert found.rejection_reason(files, "classify") == "a file is damaged"
    assert found.rejection_reason(files, "depth") is None
    served = ModelFiles("org/model", "hf", config={"model_type": "any"})
    assert found.find_backend(served, "classify").backend.name == "any"


def test_a_module_that_is_being_imported_is_not_missing(plugin, monkeypatch):
    """A module without a spec, as cv2 is while another thread imports it, is here."""
    monkeypatch.setitem(sys.modules, "half_imported", ModuleType("half_imported"))
    point = plugin(
        """
        @hookimpl
        def backends():
            return [backend(requires=("half_imported",))]
        """
    )
    (offer,) = discover(Settings(), [point]).provided
    assert offer.missing == ()


def test_missing_modules_are_named_with_their_packages(plugin):
    """A backend whose modules are not installed says what to install, and imports nothing."""
    source = """
    @hookimpl
    def backends():
        return [backend(requires=("nobody_has_this", "json"), packages=("nobody-has==1",))]
    """
    offer = discover(Settings(), [plugin(source)]).pip_backend("any")
    assert offer.missing == ("nobody_has_this",)
    with pytest.raises(Unavailable, match="needs nobody_has_this: pip install 'nobody-has==1'"):
        offer.check_installed()


async def test_the_api_lists_broken_plugins(plugin, tmp_path):
    """``GET /v1/plugins`` gives each plugin's backends, or the reason why it is out of use."""
    points = [plugin("raise RuntimeError('no luck')", name="broken"), plugin(HOOKS, name="sound")]
    async with (
        serving(tmp_path / "data", entry_points=points) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        http.get("/v1/plugins") as answer,
    ):
        broken, sound = await answer.json()
    assert re.fullmatch(r"RuntimeError: no luck \(\w+\.py, line 33\)", broken["error"])
    assert broken["backends"] == []
    assert "error" not in sound
    assert sound["backends"] == [
        {
            "name": "any",
            "task": "classify",
            "source": "pip",
            "engine": "process",
            "missing": [],
        }
    ]
