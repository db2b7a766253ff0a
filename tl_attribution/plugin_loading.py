"""Finds plugins and runs each one when its host library is imported, never before.

A plugin is an entry point in the group ``tl_attribution.plugins``. Its name is the host module to
watch, its value a function that is called with that module as soon as it is imported, at once if it
already was. Any package can declare one.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

import wrapt

GROUP = "tl_attribution.plugins"


class PluginWarning(RuntimeWarning):
    """A plugin that did not load: its host works as if the plugin were not installed."""


def watch_hosts() -> None:
    """Register every installed plugin to be run when its host module is imported."""
    for plugin in entry_points(group=GROUP):
        watch(plugin)


def import_hosts() -> None:
    """Import every host that a plugin watches and that is installed, so that its plugin runs."""
    for plugin in entry_points(group=GROUP):
        if importlib.util.find_spec(plugin.name) is not None:
            importlib.import_module(plugin.name)


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
