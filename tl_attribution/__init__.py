"""The one public door: names, no logic. ``__init__.pyi`` says where each name lives; nothing is
imported before it is used."""

import lazy_loader

from tl_attribution import plugin_loading

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

plugin_loading.watch_hosts()
