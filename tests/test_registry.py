"""One rule of precedence for everything that other packages register."""

from __future__ import annotations

import pytest

from tl_attribution.registry import Registry


class Base:
    pass


class Derived(Base):
    pass


def test_registering_a_key_again_replaces_its_entry() -> None:
    registry = Registry[int]("number", {"a": 1})
    registry.register("a", 2)
    assert dict(registry) == {"a": 2}


def test_the_last_registered_is_tried_first_and_the_defaults_last() -> None:
    registry = Registry[int]("number", {"a": 1, "b": 2})
    assert list(registry) == ["a", "b"]
    registry.register("c", 3)
    registry.register("b", 4)
    assert list(registry.items()) == [("b", 4), ("c", 3), ("a", 1)]


def test_the_nearest_class_is_selected_however_late_a_base_is_registered() -> None:
    registry = Registry[str]("host")
    registry.register(Derived, "derived")
    registry.register(Base, "base")
    assert registry.for_class(Derived) == "derived"
    registry.unregister(Derived)
    assert registry.for_class(Derived) == "base"
    assert registry.for_class(int) is None


def test_a_registry_says_what_it_holds() -> None:
    registry = Registry[int]("number", {"a": 1, Base: 2})
    assert repr(registry) == "<number registry: 'a', Base>"
    with pytest.raises(KeyError):
        registry.unregister("b")
