"""Which modules each page stands on, for the browser to ask for all of them at once.

A browser that follows imports learns of a module only when the one that imports it is there: a
round trip for each level. The page that is sent therefore names them all, page by page.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.resources.abc import Traversable

APP = "app.mjs"
MARK = "{{modules}}"
_STATIC = re.compile(r'^(?:import|export)\b[^;]*? from "\./([^"]+)"', re.MULTILINE)
_PAGE = re.compile(r'import\("\./(\w+)\.mjs"\)')


def _imported(web: Traversable, name: str) -> tuple[str, ...]:
    """Return what a module imports, in its order."""
    text = web.joinpath(*name.split("/")).read_text("utf-8")
    folder = posixpath.dirname(name)
    return tuple(posixpath.join(folder, each) for each in _STATIC.findall(text))


def below(web: Traversable, name: str, known: Iterable[str] = ()) -> list[str]:
    """Return a module and all that it stands on, in the order of their imports.

    What is in ``known`` is left out with what it imports.
    """
    found = dict.fromkeys(known)
    beyond = len(found)

    def visit(name: str) -> None:
        if name not in found:
            found[name] = None
            for each in _imported(web, name):
                visit(each)

    visit(name)
    return list(found)[beyond:]


def parts(web: Traversable) -> dict[str, list[str]]:
    """Return the modules that each page has for itself; ``""`` has those of all pages."""
    common = below(web, APP)
    pages = _PAGE.findall(web.joinpath(APP).read_text("utf-8"))
    own = {page: below(web, f"{page}.mjs", common) for page in pages}
    return {"": common[1:], **own}  # the document asks for the first, app.mjs, itself


def index(web: Traversable) -> bytes:
    """Return the page, with the modules that it stands on."""
    named = html.escape(json.dumps(parts(web), separators=(",", ":")))
    return web.joinpath("index.html").read_text("utf-8").replace(MARK, named).encode()
