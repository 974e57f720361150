"""Settings: which source wins, what each setting takes, and errors that name the key."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec
import pytest

from mataserver import config
from mataserver.config import ApiKey, ConfigError, Settings, moved
from mataserver.config.settings import Key, Text


def load(folder, yaml=None, dotenv=None, env=None, **overrides):
    """Load settings from a folder with the given files."""
    if yaml is not None:
        (folder / "mataserver.yaml").write_text(yaml)
    if dotenv is not None:
        (folder / ".env").write_text(dotenv)
    return config.load(environ=env or {}, directory=folder, **overrides)


def complaint(folder, *, said=(), **given) -> str:
    """Return the error of settings that must be refused; it must hold every word of ``said``."""
    with pytest.raises(ConfigError) as caught:
        load(folder, **given)
    for word in said:
        assert word in caught.value.detail
    return caught.value.detail


# precedence


def test_defaults(tmp_path):
    """Without anything the documented defaults apply."""
    made = load(tmp_path)
    assert made == Settings()
    assert (made.host, made.port, made.auth_mode) == ("127.0.0.1", 8110, "api_key")
    assert (made.keep_alive, made.max_sessions, made.session_ttl) == (300.0, 10, 300.0)
    assert made.data_path.name == ".mataserver"
    assert made.data_path.is_absolute()


def test_environment_over_dotenv_over_yaml_over_defaults(tmp_path):
    """Each source wins over the ones behind it, setting by setting."""
    made = load(
        tmp_path,
        yaml="port: 1\nmax_sessions: 1\nqueue_limit: 1\n",
        dotenv="MATA_SERVER_PORT=2\nMATA_SERVER_MAX_SESSIONS=2\n",
        env={"MATA_SERVER_PORT": "3"},
    )
    assert (made.port, made.max_sessions, made.queue_limit, made.max_tokens) == (3, 2, 1, 4096)


def test_options_over_everything(tmp_path):
    """Command-line options win; None among them means not given."""
    made = load(
        tmp_path, env={"MATA_SERVER_PORT": "3", "MATA_SERVER_HOST": "::"}, port=4, host=None
    )
    assert (made.port, made.host) == (4, "::")


def test_the_file_may_be_named(tmp_path):
    """MATA_SERVER_CONFIG, in the environment or .env, and the option name the YAML file."""
    other = tmp_path / "other.yaml"
    other.write_text("port: 7\n")
    (tmp_path / "third.yaml").write_text("port: 9\n")
    assert load(tmp_path, yaml="port: 1\n").port == 1
    assert load(tmp_path, env={"MATA_SERVER_CONFIG": str(other)}).port == 7
    assert load(tmp_path, env={"MATA_SERVER_CONFIG": "x"}, file=tmp_path / "third.yaml").port == 9
    assert load(tmp_path, dotenv=f"MATA_SERVER_CONFIG={other}\n").port == 7


def test_a_named_file_must_exist(tmp_path):
    """A missing file that was asked for stops the start; a missing default does not."""
    complaint(tmp_path, env={"MATA_SERVER_CONFIG": "none.yaml"}, said=["no such file: none.yaml"])
    assert load(tmp_path).port == 8110


# the environment


def test_unknown_variables_are_ignored(tmp_path):
    """Somebody else's variable is nobody's error, nor is a map as a variable."""
    env = {"MATA_SERVER_NONSENSE": "1", "PORT": "9", "MATA_SERVER_MODELS": "[]", "PATH": "/bin"}
    assert load(tmp_path, env=env) == Settings()


def test_host_and_port_have_a_second_name(tmp_path):
    """``SERVER_HOST`` and ``SERVER_PORT`` count where our own variables are not set."""
    second = {"SERVER_HOST": "0.0.0.0", "SERVER_PORT": "8000"}
    assert load(tmp_path, env=second) == Settings(host="0.0.0.0", port=8000)
    assert load(tmp_path, env={**second, "MATA_SERVER_PORT": "9000"}).port == 9000
    complaint(tmp_path, env={"SERVER_PORT": "http"}, said=["environment: SERVER_PORT"])


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("PORT", "0", 0),
        ("KEEP_ALIVE", "-1", -1.0),
        ("KEEP_ALIVE", ".5", 0.5),
        ("MAX_VRAM_FRACTION", "0.5", 0.5),
        ("MAX_BODY_MB", "20", 20.0),
        ("ALLOW_PIP_PULL", "false", False),
        ("ALLOW_PIP_PULL", "0", False),
        ("TRUST_PROXY", "true", True),
        ("TRUST_PROXY", "1", True),
        ("TRUST_PROXY", "TRUE", True),
        ("API_KEYS", "one", ["one"]),
        ("API_KEYS", " one , two,,", ["one", "two"]),
        ("API_KEYS", "", []),
        ("API_KEY", "null", "null"),
        ("API_KEY", "123", "123"),
        ("DEVICE", "cuda:1", "cuda:1"),
        ("LOG_FORMAT", "json", "json"),
        ("HOST", "0.0.0.0", "0.0.0.0"),
    ],
)
def test_variables_are_converted(tmp_path, name, text, value):
    """Numbers, booleans and comma lists are read from text; text stays text."""
    made = getattr(load(tmp_path, env={f"MATA_SERVER_{name}": text}), name.lower())
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", ""),
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("AUTH_MODE", "basic"),
        ("LOG_LEVEL", "INFO"),
        ("KEEP_ALIVE", "-2"),
        ("KEEP_ALIVE", "nan"),
        ("SESSION_TTL", "0"),
        ("SESSION_TTL", "inf"),
        ("MAX_RAM_FRACTION", "1.5"),
        ("MAX_RAM_FRACTION", "0"),
        ("MAX_SESSIONS", "0"),
        ("QUEUE_LIMIT", "1.5"),
        ("MAX_PIXELS", "999999999999"),
        ("TRUST_PROXY", "perhaps"),
        ("DEVICE", "gpu"),
        ("DEVICE", "cuda:"),
        ("DEVICE", "cuda:0\n"),
        ("DTYPE", "int8"),
        ("HEALTH_STATUS", "fine"),
    ],
)
def test_wrong_variables_are_named(tmp_path, name, text):
    """A value of the wrong type or out of range names its variable."""
    said = complaint(tmp_path, env={f"MATA_SERVER_{name}": text})
    assert said.startswith(f"environment: MATA_SERVER_{name}: ")


def test_every_simple_setting_has_its_variable(tmp_path):
    """Each setting that is no map can be set by its variable, which an error names."""
    for field in msgspec.structs.fields(Settings):
        name = f"MATA_SERVER_{field.name.upper()}"
        if field.name in {"models", "plugins"}:
            continue
        if field.type in {Text, Text | None, Key | None, list[Key | ApiKey]}:
            assert load(tmp_path, env={name: "x"}) != Settings()
        else:
            assert complaint(tmp_path, env={name: "???"}).startswith(f"environment: {name}: ")


@pytest.mark.parametrize("given", [{"env": {"MATA_SERVER_PORT": "9000"}}, {"port": 9000}])
def test_a_wrong_value_in_yaml_is_told_though_another_counts(tmp_path, given):
    """A wrong type in YAML names its path, also where a variable or an option sets the same key."""
    said = complaint(tmp_path, yaml="port: many", **given)
    assert said == "configuration: port: expected `int`, got `str`"
    said = complaint(tmp_path, yaml="api_keys: [1]", env={"MATA_SERVER_API_KEYS": "one"})
    assert said == "configuration: api_keys[0]: expected `str | object`, got `int`"


def test_a_wrong_value_of_a_plugin_is_told_though_a_variable_counts():
    """So does one of a plugin's settings whose own variable is set."""

    class Own(msgspec.Struct, forbid_unknown_fields=True):
        speed: Annotated[int, msgspec.Meta(extra={"environment": "GEAR_SPEED"})] = 1

    with pytest.raises(ConfigError) as caught:
        config.plugin_settings({"speed": "fast"}, Own, "gear", {"GEAR_SPEED": "7"})
    assert caught.value.detail == "configuration: plugins.gear.speed: expected `int`, got `str`"
    assert config.plugin_settings({"speed": 3}, Own, "gear", {"GEAR_SPEED": "7"}) == Own(speed=7)


# .env


def test_dotenv_syntax(tmp_path):
    """Comments, quotes and export are understood; a name without a value is nothing."""
    made = load(tmp_path, dotenv="# a\nexport MATA_SERVER_PORT='5'\nMATA_SERVER_HOST\n")
    assert (made.port, made.host) == (5, "127.0.0.1")


def test_a_dotenv_that_is_no_text(tmp_path):
    """A binary .env is an error with a name, not a traceback."""
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00MATA")
    assert ".env cannot be read" in complaint(tmp_path)


# YAML


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("prot: 1", ["prot: unknown key"]),
        ("port: '8110'", ["port: expected `int`, got `str`"]),
        ("port: true", ["port: expected `int`, got `bool`"]),
        ("port: 70000", ["port"]),
        ("api_keys: one", ["api_keys: expected `array`"]),
        ("api_keys: [1]", ["api_keys[0]: expected `str | object`"]),
        ("trust_proxy: 1", ["trust_proxy: expected `bool`"]),
        ("keep_alive: .nan", ["keep_alive"]),
        ("keep_alive: -0.5", ["configuration: keep_alive: must be -1, which means never, or"]),
        ("models: [{model: a, keep_alive: -0.1}]", ["models[0].keep_alive: must be -1"]),
        ("models: {}", ["models: expected `array`"]),
        ("models: [{task: detect}]", ["models[0].model: field is required"]),
        ("models: [{model: ''}]", ["models[0].model"]),
        ("models: [{model: a, confidence: 1}]", ["models[0].confidence: unknown key"]),
        ("models: [{model: a}, {model: b, pin: yes please}]", ["models[1].pin: expected `bool`"]),
        (
            "models: [{model: a, engine: G PU}]",
            ["models[0].engine: expected auto, process, thread"],
        ),
        ("models: [{model: a, device: 'cuda:x'}]", ["models[0].device"]),
        ("models: [{model: a}, {model: a}]", ["models[1].model", "listed twice"]),
        ("models: [{1: 2}]", ["models[0]"]),
        ("plugins: []", ["plugins: expected `object`"]),
        ("port: 1\nport: 2", ["port: given twice"]),
        ("models: [{model: a, task: detect, task: ocr}]", ["models[0].task: given twice"]),
        ("plugins: {fake: {a: 1}, fake: {b: 1}}", ["plugins.fake: given twice"]),
        ("[1, 2]", ["must hold a mapping"]),
        ("text", ["must hold a mapping"]),
        ("1: 2", ["must hold a mapping"]),
        ("port: [", ["mataserver.yaml cannot be read"]),
        ("a: b: c", ["mataserver.yaml cannot be read", "at line 1, column 5"]),
        ("port: !!python/object/apply:os.getcwd []", ["mataserver.yaml cannot be read"]),
        ("port: *nothing", ["mataserver.yaml cannot be read", "undefined alias (a text that"]),
        ("plugins: " + "[" * 3000, ["mataserver.yaml is nested too deeply"]),
        ("port: 010", ["port: YAML reads numbers like 010 as octal, and like 1:30"]),
        ("plugins: {fake: [1, -0_7]}", ["plugins.fake[1]: YAML reads numbers like 010 as octal"]),
        ("keep_alive: 1:30", ["keep_alive: YAML reads numbers like 010 as octal, and like 1:30"]),
        ("models: [{model: a, keep_alive: 1:30.5}]", ["models[0].keep_alive: YAML reads numbers"]),
        ("api_key: &secret", ["api_key: it has no value (a text that begins with & needs"]),
        ("a: &secret  # of all", ["a: it has no value"]),
        ("010", ["configuration: the document: YAML reads numbers like 010"]),
    ],
)
def test_yaml_is_strict_and_names_the_key(tmp_path, yaml, said):
    """An unknown, doubled or mistyped key is named with its path; nothing is executed."""
    complaint(tmp_path, yaml=yaml, said=["configuration: ", *said])


def test_other_numbers_of_yaml_work(tmp_path):
    """Hexadecimal ones, and with underscores, are what they look like; so are texts in quotes."""
    yaml = "port: 0x1F90\nmax_body_mb: 1_000\nkeep_alive: 00.5\napi_key: '0123:45'"
    made = load(tmp_path, yaml=yaml)
    assert (made.port, made.max_body_mb, made.keep_alive) == (8080, 1000, 0.5)
    assert made.api_key == "0123:45"
    assert load(tmp_path, yaml='api_key: &none ""').api_key == ""


@pytest.mark.parametrize("key", ["&pa55word", "5577:55", "055_7755"])
def test_a_value_that_is_read_otherwise_is_not_shown(tmp_path, key):
    """It may be a password without quotes."""
    for yaml in (f"api_key: {key}", f"api_keys: [{key}]"):
        assert "55" not in complaint(tmp_path, yaml=yaml, said=["quotes", "api_key"])


@pytest.mark.parametrize("key", ["*pa55word", "!pa55word 1", "&pa55word 1, &pa55word 2", "!pa!55"])
def test_a_key_without_quotes_is_not_shown(tmp_path, key):
    """YAML takes it for a name of its own, and says which; the log must not."""
    told = complaint(tmp_path, yaml=f"api_keys: [{key}]", said=["or ! needs quotes)", "at line 1"])
    assert "55" not in told


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"port: \x01"])
def test_yaml_that_is_no_text(tmp_path, content):
    """A file that is no UTF-8 or holds control characters is an error with the file's name."""
    (tmp_path / "mataserver.yaml").write_bytes(content)
    assert "mataserver.yaml cannot be read" in complaint(tmp_path)


@pytest.mark.parametrize("yaml", ["", "# nothing\n", "---\n", "null"])
def test_an_empty_file_sets_nothing(tmp_path, yaml):
    """A YAML file may be empty."""
    assert load(tmp_path, yaml=yaml) == Settings()


def test_anchors_and_merges_work(tmp_path):
    """YAML's own means against repetition may be used."""
    yaml = "models:\n- &a {model: a, pin: true}\n- {<<: *a, model: b}\n"
    assert [(m.model, m.pin) for m in load(tmp_path, yaml=yaml).models] == [
        ("a", True),
        ("b", True),
    ]


def test_an_alias_to_itself_is_refused(tmp_path):
    """A structure that holds itself ends in an error, not in a loop."""
    complaint(tmp_path, yaml="plugins: &a {fake: *a}\nprot: 1", said=["configuration: "])


def test_the_documented_model_entry(tmp_path):
    """Every key of a model's entry is read, and settings.model() finds it."""
    yaml = """
models:
- {model: PekingU/rtdetr_v2_r18vd, task: detect, engine: process, device: auto, dtype: auto,
   max_batch: 8, max_wait_ms: 2, preload: true, pin: true, keep_alive: -1,
   params: {confidence: 0.4}}
"""
    made = load(tmp_path, yaml=yaml)
    entry = made.model("PekingU/rtdetr_v2_r18vd")
    assert (entry.task, entry.max_batch, entry.max_wait_ms, entry.keep_alive) == (
        "detect",
        8,
        2,
        -1,
    )
    assert (entry.preload, entry.pin, entry.params) == (True, True, {"confidence": 0.4})
    assert made.model("other") == config.ModelSettings(model="other")


# what is computed


def test_keys_of_both_settings_count_once(tmp_path):
    """api_keys and api_key are the server's keys; empty ones are none."""
    made = load(tmp_path, env={"MATA_SERVER_API_KEYS": "a,b,a", "MATA_SERVER_API_KEY": "b"})
    assert made.keys == ("a", "b")
    assert load(tmp_path, env={"MATA_SERVER_API_KEY": ""}).keys == ()


@pytest.mark.parametrize("key", [" k-1", "k-1\n", "k\t1", "\x7fk-1"])
def test_a_key_that_no_request_can_carry_is_refused(tmp_path, key):
    """The file of a secret may end with a new line: nobody would get in, and nobody told why."""
    for place, given in (
        ("MATA_SERVER_API_KEY", {"env": {"MATA_SERVER_API_KEY": key}}),
        ("api_keys[1]", {"yaml": f"api_keys: [good, {json.dumps(key)}]"}),
        ("api_keys[0].key", {"yaml": f"api_keys: [{{key: {json.dumps(key)}}}]"}),
    ):
        folder = tmp_path / place
        folder.mkdir()
        told = complaint(
            folder, said=(f"{place}: expected a key that a request can carry",), **given
        )
        assert "k-1" not in told


@pytest.mark.parametrize("name", ["host", "data_dir", "shared_dir"])
def test_an_empty_address_or_directory_is_refused(tmp_path, name):
    """A variable whose value was forgotten opens no server to everybody."""
    complaint(tmp_path, said=(name, "length >= 1"), yaml=f"{name}: ''")
    (tmp_path / "mataserver.yaml").unlink()
    variable = f"MATA_SERVER_{name.upper()}"
    complaint(tmp_path, said=(variable, "length >= 1"), env={variable: ""})


def test_a_megabyte_is_a_million_bytes(tmp_path):
    """max_body is in bytes."""
    assert load(tmp_path, yaml="max_body_mb: 1.5").max_body == 1_500_000
    assert load(tmp_path, yaml="max_body_mb: 0.57").max_body == 570_000


def test_settings_do_not_change():
    """Settings are frozen."""
    with pytest.raises(AttributeError):
        Settings().port = 1


@pytest.mark.parametrize(
    ("name", "package"),
    [
        *(
            (each, "mataserver-cameras (./plugins/cameras in a checkout)")
            for each in ("cameras", "camera_hosts", "camera_paths", "camera_timeout")
        ),
        ("grpc_port", "'mataserver-oip[grpc]' (./plugins/oip[grpc] in a checkout)"),
    ],
)
def test_a_setting_whose_plugin_is_not_installed(name, package):
    """Whoever has a setting that needs a package now is told which, in a sentence."""
    with pytest.raises(
        ConfigError, match=f"^configuration: {name}: needs a package: pip "
    ) as caught:
        moved.apply_moves({name: 1, "port": 1}, [])
    assert str(caught.value).endswith(package)
    assert moved.package_of(name, []) == package
    assert moved.package_of(name) is None  # it is installed here
    assert moved.package_of("port", []) is None
