"""Distributed training: a grid of processes, by data and by features.

Processes that torchrun starts form a two-dimensional device mesh of torch.distributed: along one
axis they are data parallel, along the other they divide the features of every layer. With a single
process, the collective operations do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from tl_attribution import devices
from tl_attribution.errors import InputError

Axis = Literal["data", "features"]
DATA: Axis = "data"
FEATURES: Axis = "features"


@dataclass(frozen=True, eq=False)
class ProcessGrid:
    """The processes of a run, as one of them sees them. ``mesh`` is None for a single process."""

    device: torch.device
    mesh: DeviceMesh | None = None

    @property
    def n_data(self) -> int:
        """Number of copies of the dictionary, each trained on its part of the batch."""
        return 1 if self.mesh is None else self.mesh[DATA].size()

    @property
    def n_shards(self) -> int:
        """Number of processes that divide the features of one copy."""
        return 1 if self.mesh is None else self.mesh[FEATURES].size()

    @property
    def data_rank(self) -> int:
        """Index of the copy that this process belongs to."""
        return 0 if self.mesh is None else self.mesh.get_local_rank(DATA)

    @property
    def shard(self) -> int:
        """Index of this process's part of the features."""
        return 0 if self.mesh is None else self.mesh.get_local_rank(FEATURES)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and reports progress."""
        return self.data_rank == 0 and self.shard == 0

    @property
    def lanes(self) -> int:
        """Parts of a batch whose tokens do not depend on the number of processes."""
        return 8 if 8 % self.n_data == 0 else self.n_data

    def local(self, tensor: Shaped[Tensor, "*full"], dim: int) -> Shaped[Tensor, "*local"]:
        """This process's part of a tensor that is divided by feature along ``dim``."""
        return tensor.chunk(self.n_shards, dim)[self.shard].clone()

    def full(self, tensor: Shaped[Tensor, "*local"], dim: int) -> Shaped[Tensor, "*full"]:
        """The full tensor from every process's part, the inverse of :meth:`local`."""
        if self.mesh is None or self.n_shards == 1:
            return tensor
        return DTensor.from_local(tensor, self.mesh[FEATURES], [Shard(dim)]).full_tensor()

    def sum_features(self, partial: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Sum over the processes that share a copy; gradients pass unchanged, since each of them
        computes the same loss from the sum."""
        if self.n_shards == 1:
            return partial
        return _SumFeatures.apply(partial, self._group(FEATURES))

    def sum(self, tensor: Shaped[Tensor, "*shape"], *axes: Axis) -> Shaped[Tensor, "*shape"]:
        """Sum over axes of the grid, without gradients."""
        out = tensor.detach().clone()
        for axis in axes:
            if self.mesh is not None and self.mesh[axis].size() > 1:
                dist.all_reduce(out, group=self._group(axis))
        return out

    def gather(self, tensor: Shaped[Tensor, "*local"], *axes: Axis) -> Shaped[Tensor, "*joined"]:
        """Every process's tensor, all of one shape, joined along the last dimension."""
        for axis in axes:
            if self.mesh is not None and self.mesh[axis].size() > 1:
                parts = [torch.empty_like(tensor) for _ in range(self.mesh[axis].size())]
                dist.all_gather(parts, tensor.contiguous(), group=self._group(axis))
                tensor = torch.cat(parts, dim=-1)
        return tensor

    def min(self, number: float) -> float:
        """The minimum over all processes."""
        local = torch.tensor([number], device=self.device, dtype=torch.float64)
        return float(self.gather(local, DATA, FEATURES).min())

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.mesh is None:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device), DATA, FEATURES) > 0)

    def wait(self) -> None:
        """Wait until every process is at this point."""
        self.any(False)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average the gradients of the copies, in place."""
        if self.n_data == 1:
            return
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad, group=self._group(DATA))
                parameter.grad /= self.n_data

    def _group(self, axis: Axis) -> dist.ProcessGroup:
        assert self.mesh is not None
        return self.mesh.get_group(axis)


class _SumFeatures(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: dist.ProcessGroup) -> Tensor:
        out = partial.clone()
        dist.all_reduce(out, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def join(feature_shards: int, device: torch.device | str | None = None) -> ProcessGrid:
    """Form the grid of this run: of one process, or of those that torchrun started.

    Raises InputError if their number cannot be divided by ``feature_shards``, or if the device is
    not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world % feature_shards:
        raise InputError(
            f"feature_shards={feature_shards} needs a multiple of {feature_shards} processes, got "
            f"{world}; start with: torchrun --nproc-per-node {feature_shards} -m tl_attribution "
            "train …"
        )
    device = devices.check(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if world == 1:
        return ProcessGrid(device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    shape = (world // feature_shards, feature_shards)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=(DATA, FEATURES))
    return ProcessGrid(device, mesh)


@contextmanager
def process_grid(
    feature_shards: int, device: torch.device | str | None = None
) -> Iterator[ProcessGrid]:
    """:func:`join` as a context; leaves the process group afterwards unless there was one before.
    Raises InputError as :func:`join` does."""
    initialized = dist.is_initialized()
    try:
        yield join(feature_shards, device)
    finally:
        if dist.is_initialized() and not initialized:
            dist.destroy_process_group()
