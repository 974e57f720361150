"""OpenAI's API: chat completions about images, and the models in OpenAI's form.

The forms are those of the API reference of OpenAI, "Chat Completions" and "Models". What a model of
the task ``vlm`` cannot do is refused by name, and never passed over in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_openai.api import OpenAI


@hookimpl
def service(ctx: Context) -> OpenAI:
    """Return the service."""
    from mataserver_openai.api import OpenAI  # what only a server needs

    return OpenAI(ctx)
