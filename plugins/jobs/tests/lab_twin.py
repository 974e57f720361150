"""A plugin whose kind of jobs has the name of another's."""

from __future__ import annotations

import lab_plugin

from mataserver import hookimpl


class Twin(lab_plugin.Lab):
    def routes(self):
        return []


@hookimpl
def service(ctx):
    return Twin(ctx)
