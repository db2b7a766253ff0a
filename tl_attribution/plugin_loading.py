"""Plugins: run each one when the library it serves is imported, never before.

A plugin is an entry point in the group ``tl_attribution.plugins``. Its name is the module to watch;
its value is a function that is called with that module as soon as it is imported, or at once if it
was already. Any package can declare one.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

import wrapt

from tl_attribution.errors import NotFoundError

GROUP = "tl_attribution.plugins"


class PluginWarning(RuntimeWarning):
    """A plugin did not load: the library it serves works as if it were not installed."""


def watch_hosts() -> None:
    """Register every installed plugin to be run when its host module is imported."""
    for plugin in entry_points(group=GROUP):
        watch(plugin)


def import_hosts(until: Callable[[], object] = lambda: None) -> None:
    """Import the installed modules that plugins watch, so that the plugins run: all of them, or one
    by one until ``until()`` is true."""
    for plugin in entry_points(group=GROUP):
        if until():
            return
        if importlib.util.find_spec(plugin.name) is not None:
            importlib.import_module(plugin.name)


def import_host(name: str) -> None:
    """Import one module if a plugin watches it, so that the plugin runs. Raises NotFoundError, with
    the command that installs it, if a plugin watches it and it is not installed."""
    for plugin in entry_points(group=GROUP, name=name):
        if importlib.util.find_spec(name) is None:
            raise NotFoundError(f"{name!r} is not installed: {_install_command(plugin)}")
        importlib.import_module(name)


def _install_command(plugin: EntryPoint) -> str:
    """The command that installs a plugin's library: by the extra named after it, if any."""
    extra = plugin.name.replace("_", "-")
    if plugin.dist is None or extra not in (plugin.dist.metadata.get_all("Provides-Extra") or []):
        return f"pip install {extra}"
    return f"pip install '{plugin.dist.name}[{extra}]'"


def watch(plugin: EntryPoint) -> None:
    """Run one plugin when its host module is imported."""
    wrapt.register_post_import_hook(lambda host: run(plugin, host), plugin.name)


def run(plugin: EntryPoint, host: ModuleType) -> None:
    """Load a plugin and call it with its host module. Any error becomes a PluginWarning that names
    the plugin and the cause: a broken plugin must not break its host."""
    try:
        plugin.load()(host)
    except Exception as error:
        package = plugin.dist.name if plugin.dist else "an unknown package"
        warnings.warn(
            f"plugin {plugin.value!r} of {package} could not serve {host.__name__!r}: "
            f"{type(error).__name__}: {error}. tl-attribution and {host.__name__} go on without it",
            PluginWarning,
            stacklevel=2,
        )
