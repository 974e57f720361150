"""What the house reached stays reached."""

from __future__ import annotations

import pytest

import house_shape

REACHED = {
    "circles of imports",
    "class names that stand twice in the core",
    "files of the core that a protocol changes",
    "files of the core that a task of a plugin changes",
    "imports of the core from plugins",
    "imports of plugins from below the public root",
    "layers of the core",
    "lines of the largest class",
    "lines of the largest file",
}
"""Figures that got to their goals, and are not to leave them; the others are on their way."""


@pytest.mark.parametrize("name", sorted(REACHED))
def test_a_goal_that_was_reached_is_kept(name):
    """A figure of ``make shape`` that got to its goal is still there."""
    [figure] = [each for each in house_shape.figures() if each.name == name]
    assert figure.reached, (
        figure,
        house_shape.circles(),
        house_shape.below_the_root(),
        house_shape.too_large(),
    )


def test_a_goal_that_is_reached_is_held():
    """A figure that got to its goal stands among those that are kept."""
    assert {each.name for each in house_shape.figures() if each.reached} == REACHED


def test_what_a_template_brings_is_looked_for():
    """A core that named a template's task, or its route, would be found: those are their names."""
    assert {"mataserver_exposure", "exposure.levels"} <= house_shape.brought("task")
    assert {"mataserver_deepstack", "/v1/vision"} <= house_shape.brought("protocol")
