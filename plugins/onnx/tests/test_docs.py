"""The README says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import yaml

import mataserver_onnx
from mataserver_onnx import layouts
from mataserver_onnx.export import command, comparison
from mataserver_onnx.options import ModelOptions

PAGE = (Path(__file__).parents[1] / "README.md").read_text()


def rows(header):
    """The cells of the table that begins with ``header``, row by row."""
    table = PAGE.split(f"| {header} |", 1)[1].split("\n\n", 1)[0]
    lines = [line for line in table.splitlines()[2:] if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_layout_is_described_with_its_task():
    """The table of layouts is that of the code."""
    described = {row[0].strip("`"): row[1] for row in rows("layout")}
    assert described == layouts.TASKS


def test_every_parameter_is_described():
    """The table of parameters holds those of the backends."""
    fields = {f for each in mataserver_onnx.backends() for f in each.params.__struct_fields__}
    assert {row[0].strip("`") for row in rows("parameter")} == fields


def test_every_setting_of_a_model_is_shown():
    """The second YAML block names every field, with a value that it may have."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    [options] = yaml.safe_load(blocks[1])["plugins"]["onnx"]["models"].values()
    assert list(options) == list(ModelOptions.__struct_fields__)
    assert msgspec.convert(options, ModelOptions) != ModelOptions()


def test_every_option_of_the_command_is_described():
    """The table of options is that of the command."""
    described = {name for row in rows("option") for name in re.findall(r"`(--[\w-]+)", row[0])}
    actual = {name for each in command.export.params for name in each.opts if name[0] == "-"}
    assert described == actual


def test_the_limits_of_a_comparison_are_described():
    """What is let pass, in full precision and in int8, is what the page says."""
    described = [(float(row[1]), float(row[2])) for row in rows("figure")]
    limits = comparison.LIMITS
    assert described == [
        *limits["detect"].values(),
        limits["classify"]["probabilities"],
        *limits["segment"].values(),
        *limits["depth"].values(),
        *limits["embed"].values(),
    ]
