"""This process among the others: who holds which features and which tokens.

Launched by torchrun, processes form a grid of torch.distributed's device mesh: data parallel along
one axis, and along the other the features of every layer are divided. Alone, everything here does
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from tl_attribution import devices
from tl_attribution.errors import InputError

DATA, FEATURES = "data", "features"


@dataclass(frozen=True, eq=False)
class Team:
    """The processes of a run. ``mesh`` is None for one process alone."""

    device: torch.device
    mesh: DeviceMesh | None = None

    @property
    def n_data(self) -> int:
        """Copies of the dictionary, each on its own tokens."""
        return 1 if self.mesh is None else self.mesh[DATA].size()

    @property
    def n_shards(self) -> int:
        """Processes that share one copy."""
        return 1 if self.mesh is None else self.mesh[FEATURES].size()

    @property
    def data_rank(self) -> int:
        """Which copy this process belongs to."""
        return 0 if self.mesh is None else self.mesh.get_local_rank(DATA)

    @property
    def shard(self) -> int:
        """Which part of the features it holds."""
        return 0 if self.mesh is None else self.mesh.get_local_rank(FEATURES)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.data_rank == 0 and self.shard == 0

    @property
    def lanes(self) -> int:
        """Parts of a batch that keep their tokens whatever the number of processes."""
        return 8 if 8 % self.n_data == 0 else self.n_data

    def local(self, tensor: Shaped[Tensor, "*given"], dim: int) -> Shaped[Tensor, "*made"]:
        """This process's part of a tensor that is divided by feature along ``dim``."""
        return tensor.chunk(self.n_shards, dim)[self.shard].clone()

    def full(self, tensor: Shaped[Tensor, "*given"], dim: int) -> Shaped[Tensor, "*made"]:
        """The whole of such a tensor, from every process's part."""
        if self.mesh is None or self.n_shards == 1:
            return tensor
        return DTensor.from_local(tensor, self.mesh[FEATURES], [Shard(dim)]).full_tensor()

    def sum_features(self, partial: Shaped[Tensor, "*given"]) -> Shaped[Tensor, "*made"]:
        """Sum over the processes that share a copy; gradients pass unchanged, since each of them
        computes the same loss from the sum."""
        if self.n_shards == 1:
            return partial
        return _Sum.apply(partial, self._group(FEATURES))

    def total(self, tensor: Shaped[Tensor, "*given"], *axes: str) -> Shaped[Tensor, "*made"]:
        """Sum over axes of the grid, without gradients."""
        out = tensor.detach().clone()
        for axis in axes:
            if self.mesh is not None and self.mesh[axis].size() > 1:
                dist.all_reduce(out, group=self._group(axis))
        return out

    def gather(self, tensor: Shaped[Tensor, "*given"], *axes: str) -> Shaped[Tensor, "*made"]:
        """Every process's tensor of one shape, joined along the last dimension."""
        for axis in axes:
            if self.mesh is not None and self.mesh[axis].size() > 1:
                parts = [torch.empty_like(tensor) for _ in range(self.mesh[axis].size())]
                dist.all_gather(parts, tensor.contiguous(), group=self._group(axis))
                tensor = torch.cat(parts, dim=-1)
        return tensor

    def least(self, number: float) -> float:
        """The smallest of every process's number."""
        mine = torch.tensor([number], device=self.device, dtype=torch.float64)
        return float(self.gather(mine, DATA, FEATURES).min())

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.mesh is None:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=self.device), DATA, FEATURES) > 0)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Mean of the copies' gradients, in place."""
        if self.n_data == 1:
            return
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad, group=self._group(DATA))
                parameter.grad /= self.n_data

    def _group(self, axis: str) -> dist.ProcessGroup:
        assert self.mesh is not None
        return self.mesh.get_group(axis)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: dist.ProcessGroup) -> Tensor:
        out = partial.clone()
        dist.all_reduce(out, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def join(feature_shards: int, device: torch.device | str | None = None) -> Team:
    """The team of this run: alone, or with the processes that torchrun started.

    Raises InputError if their number cannot be divided by ``feature_shards``, or if the device is
    not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world % feature_shards:
        raise InputError(
            f"feature_shards={feature_shards} needs a multiple of as many processes, not {world}; "
            f"start with: torchrun --nproc-per-node {feature_shards} -m tl_attribution train …"
        )
    place = devices.check(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if world == 1:
        return Team(place)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    shape = (world // feature_shards, feature_shards)
    return Team(place, init_device_mesh(place.type, shape, mesh_dim_names=(DATA, FEATURES)))


@contextmanager
def joined(feature_shards: int, device: torch.device | str | None = None) -> Iterator[Team]:
    """:func:`join`, and the group left again if it was not there before."""
    before = dist.is_initialized()
    try:
        yield join(feature_shards, device)
    finally:
        if dist.is_initialized() and not before:
            dist.destroy_process_group()
