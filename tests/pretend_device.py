"""A device that is not there: its values are on the processor, and it is as strict as CUDA.

``with pretending():`` makes ``torch.device("pretend")`` usable. Whatever mixes its tensors with the
processor's raises, but for what CUDA allows too: copies, indexing by a tensor of the processor, and
a number (a tensor without axes) in elementwise operations. NumPy is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "pretend"
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
"""Whether this torch can have a device that is written in Python."""

aten = torch.ops.aten
_COPIES = (aten._to_copy.default, aten.copy_.default)
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_NUMBERS = (*_INDEXING, "aten::masked_fill", "aten::masked_fill_", "aten::fill_")
"""Operations that CUDA gives a number of the processor, besides the elementwise ones."""


class PretendTensor(Tensor):
    """A tensor on the pretend device; ``held`` has its values, on the processor."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendTensor:
        like = held
        if held.layout is not torch.strided:  # a sparse matrix looks dense from outside
            like = torch.empty(held.size(), dtype=held.dtype, device="meta")
        new = Tensor._make_wrapper_subclass(
            cls,
            like.size(),
            strides=like.stride(),
            storage_offset=like.storage_offset(),
            dtype=like.dtype,
            device=torch.device(NAME, 0),
        )
        new.held = held
        return new

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """PyTorch refuses this of every subclass."""
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused in the words of every device."""
        del force
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use .cpu()")

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} on {NAME}"


class _Mode(TorchDispatchMode):
    """Sees what is called without a tensor of the device: factories, and copies onto it."""

    depth = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors: list[Tensor] = []
    _each(lambda t: tensors.append(t), (args, kwargs))
    here = [t for t in tensors if isinstance(t, PretendTensor)]
    _check(func, args, tensors)
    onto = kwargs.get("device")
    lands = bool(here) if onto is None else torch.device(onto).type == NAME
    if onto is not None and lands:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(t): t for t in tensors} | {id(t.held): t for t in here}

    def result(out: Tensor) -> Tensor:
        if id(out) in known:  # changed in place
            return known[id(out)]
        return PretendTensor(out) if lands else out

    args, kwargs = _each(lambda t: getattr(t, "held", t), (args, kwargs))
    return _each(result, func(*args, **kwargs))


def _each(change: Callable[[Tensor], Any], values: Any) -> Any:
    """``values`` with every tensor among them changed. PyTorch's own tree_map is far slower."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, (list, tuple)):
        return type(values)([_each(change, one) for one in values])
    if isinstance(values, dict):
        return {name: _each(change, one) for name, one in values.items()}
    return values


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raise RuntimeError, as CUDA does, where devices are mixed."""
    name = func._schema.name
    if len({t.device for t in tensors}) < 2 or func in _COPIES:
        return
    if name in _INDEXING:
        if not isinstance(args[0], PretendTensor):
            raise RuntimeError("indices should be either on cpu or on the indexed tensor's device")
        tensors = [t for t in tensors if not any(t is index for index in args[1])]
    numbers = name in _NUMBERS or torch.Tag.pointwise in func.tags
    strict = [t for t in tensors if t.ndim or not numbers or isinstance(t, PretendTensor)]
    if len({t.device for t in strict}) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} got "
            + ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
        )


@cache
def _register() -> None:
    class Module(backend_registration._DummyBackendModule):
        """What ``torch.pretend`` is; not available outside, so that nothing chooses it."""

        def is_available(self) -> bool:
            return _Mode.depth > 0

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.float16, torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())


@contextmanager
def pretending() -> Iterator[str]:
    """The pretend device, under this name. PyTorch keeps it registered, unused, afterwards."""
    _register()
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(..., device=) is seen
    _Mode.depth += 1
    try:
        with _Mode():
            yield NAME
    finally:
        _Mode.depth -= 1
        torch._C._set_only_lift_cpu_tensors(before)
