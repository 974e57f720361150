"""``mataserver serve``."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from mataserver import __version__, config
from mataserver.cli.environment import config_option, naming, take_hub_variables
from mataserver.config.addresses import is_loopback, local_url
from mataserver.config.credentials import key_file
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.app.server import ComposedServer
    from mataserver.config import Settings
    from mataserver.plugins import Plugin

log = logging.getLogger("mataserver")


def note_configuration(file: str | None) -> None:
    """Record the configuration file in its variable, by which confinement finds and hides it.

    It may contain keys, which models must not read (``confinement``).
    """
    if file:
        os.environ[f"{config.PREFIX}CONFIG"] = str(Path(file).expanduser().absolute())


@click.command()
@click.option("--host", help="Address to listen on [default: 127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on [default: 8110].")
@click.option("--open", "opening", is_flag=True, help="Open the page in the browser.")
@config_option
def serve(*, host: str | None, port: int | None, opening: bool, config_file: str | None) -> None:
    """Start the inference server."""
    # Objects created at the start are permanent. Traversing them in garbage collections takes a
    # tenth of the start, and ``gc.freeze`` exempts them from later ones.
    gc.disable()
    import asyncio

    from mataserver import late_certificates, logs

    with late_certificates.reading_late():
        from mataserver.app import running

    settings, set_by = config.read(config_file, host=host, port=port)
    note_configuration(config_file)
    take_hub_variables()
    # Children start other programs: without this gRPC, where it is on, logs a line at each fork.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    logs.configure(settings.log_level, settings.log_format)
    _warn_of_exposure(settings)

    def announce(url: str, composed: ComposedServer) -> None:
        gc.freeze()
        gc.enable()
        link = _link(settings, url, composed)
        for line in announcement(url, composed, link):
            click.echo(line)
        if _should_confine(settings, composed):
            from mataserver.processes import landlock  # which imports ctypes

            if not landlock.abi_version():
                log.warning("models may use every file: Landlock is missing or refused")
        if opening:
            asyncio.get_running_loop().run_in_executor(None, _open, link)

    def reread() -> tuple[Settings, dict[str, config.SetBy]]:
        try:
            return config.read(config_file, host=host, port=port)
        except MataError as error:
            raise naming(config_file, error) from None

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(running.run(settings, announce, reread=reread, set_by=set_by))


def _should_confine(settings: Settings, composed: ComposedServer) -> bool:
    """Whether models are to be confined: those in a process of their own on this machine."""
    if not settings.confine_models:
        return False
    names = {
        each.backend.engine if settings.engine == "auto" else settings.engine
        for each in composed.plugins.provided
        if each.backend.confined
    }
    if names:
        for each in settings.models:
            limited = each.engine == "auto" and each.max_ram_mb is not None
            names.add("process" if limited else each.engine)
    return any(not composed.engines.is_remote(name) for name in names - {"auto", "thread"})


def _warn_of_exposure(settings: Settings) -> None:
    """Warn where everybody is answered, also on other machines."""
    if settings.auth_mode == "none" and not is_loopback(settings.host):
        log.warning(
            "AUTHENTICATION IS OFF and the server listens on %s: anyone who can reach it may use "
            "it",
            settings.host or "every address",
        )


def announcement(url: str, composed: ComposedServer, link: str) -> list[str]:
    """Return the lines printed once the server listens."""
    from mataserver.sources.cache import cache_directory

    settings, new_key = composed.settings, composed.new_key
    none = (
        "none; models need one: mataserver-opencv, mataserver-ocr, mataserver-onnx, mataserver-hf"
    )
    plugins = ", ".join(_describe(plugin) for plugin in composed.plugins.found) or none
    count = len(composed.catalog.entries())
    lines = [
        f"mataserver {__version__} listens on {url} (API documentation at /docs)",
        f"  API key: {_key(settings, new_key)}",
        f"  plugins: {plugins}",
        f"  models:  {count} registered in {settings.shared_path}; hub cache {cache_directory()}",
    ]
    if new_key is not None and link:
        lines.insert(2, f"  open:    {link} (once, within ten minutes)")
    return lines


def _link(settings: Settings, url: str, composed: ComposedServer) -> str:
    """Return the page's URL on this machine, with a one-time sign-in code.

    Empty if no plugin provides a page.
    """
    if not any(page.path == "/" for _, page in composed.pages.found()):
        return ""
    page = local_url(settings.host, urlsplit(url).port or settings.port)
    code = composed.gate.make_code()
    return f"{page}/#code={code}" if code else f"{page}/"


def _open(link: str) -> None:
    """Open the page in the browser; without a browser, print its URL."""
    import webbrowser

    if not link:
        log.warning("there is no page to open: install mataserver-console")
        return
    if not _has_screen() or not webbrowser.open(link):
        page = link.partition("#")[0]
        log.warning("no browser could be opened: open %s yourself and enter the key", page)


def _has_screen() -> bool:
    """Whether a browser can open a window: a terminal browser would take over the terminal."""
    names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return any(os.environ.get(name) for name in names)


def _key(settings: Settings, new_key: str | None) -> str:
    if settings.auth_mode == "none":
        return "none is needed (auth_mode is none)"
    if settings.keys:
        return f"from the settings ({len(settings.keys)})"
    if new_key is not None:
        return f"{new_key} (made now, shown this once; kept in {key_file(settings)})"
    return f"in {key_file(settings)}"


def _describe(plugin: Plugin) -> str:
    known = f"{plugin.name} {plugin.version}".rstrip()
    if plugin.error_line is not None:
        return f"{known} (BROKEN: {plugin.error_line})"
    return known if plugin.error is None else f"{known} (off)"


def _loop_factory() -> Callable[[], Any]:
    """Return uvloop's event loop if installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.new_event_loop
    factory: Callable[[], Any] = uvloop.new_event_loop
    return factory
