"""Finds plugins and runs each one when its host library is imported, never before.

A plugin is an entry point in the group ``tl_attribution.plugins``. Its name is the host module to
watch, its value a function that is called with that module as soon as it is imported, at once if it
already was. Any package can declare one.
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
    """A plugin that did not load: its host works as if the plugin were not installed."""


def watch_hosts() -> None:
    """Register every installed plugin to be run when its host module is imported."""
    for plugin in entry_points(group=GROUP):
        watch(plugin)


def import_hosts(until: Callable[[], object] = lambda: None) -> None:
    """Import the hosts that plugins watch and that are installed, so that their plugins run: all
    of them, or one after the other until ``until()`` is true."""
    for plugin in entry_points(group=GROUP):
        if until():
            return
        if importlib.util.find_spec(plugin.name) is not None:
            importlib.import_module(plugin.name)


def import_host(name: str) -> None:
    """Import one host if a plugin watches it, so that its plugin runs. Raises NotFoundError, with
    the command that installs it, if a plugin watches it and it is not there."""
    for plugin in entry_points(group=GROUP, name=name):
        if importlib.util.find_spec(name) is None:
            raise NotFoundError(f"{name!r} is not installed: {_command(plugin)}")
        importlib.import_module(name)


def _command(plugin: EntryPoint) -> str:
    """What installs a plugin's host: the extra that is named after it, where there is one."""
    extra = plugin.name.replace("_", "-")
    if plugin.dist is None or extra not in (plugin.dist.metadata.get_all("Provides-Extra") or []):
        return f"pip install {extra}"
    return f"pip install '{plugin.dist.name}[{extra}]'"


def watch(plugin: EntryPoint) -> None:
    """Run one plugin when its host module is imported."""
    wrapt.register_post_import_hook(lambda host: run(plugin, host), plugin.name)


def run(plugin: EntryPoint, host: ModuleType) -> None:
    """Load a plugin and call it with its host. Whatever goes wrong is a PluginWarning that names
    the plugin and the cause: a broken plugin must not take its host down."""
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
