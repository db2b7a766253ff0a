"""The closed-form adjoint: edges as (what the source writes) · (the target's reading, transported
down to where the source writes). Matrix products only; ``oracle`` is the same by autograd.

A sweep carries the cotangents of a block of targets from the top of the model to the embeddings. A
target at position p sees nothing after p, so targets are swept in order of position and cut there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_attribution.replacement.local import LocalReplacementModel, Readouts, Rows
from tl_attribution.shapes import Cotangents

BLOCK_BYTES = 64 * 2**20
"""Size that a block's cotangents may have; larger blocks gain no speed."""
SMALL_BLOCK = 256
"""A block of fewer targets than this takes on targets of later positions too."""

Progress = Callable[[int, int], None]
"""(targets done, targets in all)."""


@dataclass(frozen=True, eq=False)
class _Writes:
    """What features write into one MLP. ``vectors`` are ordered as columns are inside a sweep, so
    that position q's are rows ``rows[q]:rows[q+1]`` and touch one run of columns that starts at
    ``columns[q]``."""

    vectors: Float[Tensor, "write d_model"]
    rows: list[int]
    columns: list[int]


@dataclass(frozen=True, eq=False)
class _Pulled:
    """Readouts pulled back to the residual stream. ``step`` orders where they enter going down:
    2·n_layers above everything, 2·l+1 between the attention and the MLP of layer l, 2·l below
    both."""

    step: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    vectors: Float[Tensor, "row d_model"]
    constant: Float[Tensor, " row"]


class Transport:
    """The sweep of one local replacement model; builds what all sweeps share once."""

    def __init__(self, local: LocalReplacementModel) -> None:
        self.local = local
        position, every = local.features.position, range(local.n_layers)
        self._inner = torch.arange(len(position), device=position.device)
        self._outer: Tensor | None = None  # columns come by layer, then position
        if any(len(local.dictionary.written_layers(layer)) > 1 for layer in every):
            self._inner = torch.argsort(position, stable=True)  # by position, then layer
            self._outer = torch.argsort(self._inner)
        self._writes = [self._writes_into(layer) for layer in range(local.n_layers)]

    def _writes_into(self, target: int) -> _Writes:
        local, inner = self.local, self._inner
        layer = local.features.layer[inner]
        sources = [s for s in range(target + 1) if target in local.dictionary.written_layers(s)]
        lowest, highest = (min(sources), max(sources)) if sources else (0, -1)
        columns = ((layer >= lowest) & (layer <= highest)).nonzero().flatten()
        vectors = local.errors.new_empty(len(columns), local.errors.shape[-1])
        for source in sources:
            mine = (layer[columns] == source).nonzero().flatten()
            if len(mine):
                vectors[mine] = local.writes(source, target, inner[columns[mine]])
        position = local.features.position[inner][columns]
        edges = torch.arange(local.n_positions + 1, device=position.device)
        rows = torch.searchsorted(position, edges).tolist()
        starts = [int(columns[r]) if r < len(columns) else 0 for r in rows]
        return _Writes(vectors, rows, starts)

    def rows(
        self, readouts: Readouts, *, out: Tensor | None = None, progress: Progress | None = None
    ) -> Rows:
        """Edges into every readout. ``out`` [row, source] is filled instead of new memory if given;
        it must be zero, and may be on another device than the model."""
        local = self.local
        pulled = _pull(local, readouts)
        edges = pulled.vectors.new_zeros(len(readouts), local.n_sources) if out is None else out
        constant = torch.empty_like(pulled.constant)
        done = 0
        for chosen in _blocks(pulled.position, local.errors.shape[-1]):
            chosen = chosen[torch.argsort(pulled.step[chosen], descending=True, stable=True)]
            part = _Pulled(*(c[chosen] for c in vars(pulled).values()))
            block = _Sweep(self, part).run()
            edges[chosen.to(edges.device)] = block.edges.to(edges.device)
            constant[chosen] = block.constant
            done += len(chosen)
            if progress is not None:
                progress(done, len(readouts))
        return Rows(edges, constant)


def _pull(local: LocalReplacementModel, readouts: Readouts) -> _Pulled:
    """Bring the readouts' vectors through the norm they read through."""
    snapshot, site = local.snapshot, readouts.site
    vectors, constant = torch.empty_like(readouts.vectors), readouts.bias.clone()
    step = 2 * readouts.layer
    for layer in readouts.layer.unique().tolist():
        mine = readouts.layer == layer
        norm, g = snapshot.norm(layer), readouts.vectors[mine]
        if site.norm == "affine":
            if norm.bias is not None:
                constant[mine] += g @ norm.bias
            g = g if norm.weight is None else g * norm.weight
        if site.norm != "none":
            g = norm.pull_normalized(g, norm.scale[readouts.position[mine]])
        vectors[mine] = g
        if layer < local.n_layers and site.place == "mlp" and not snapshot.blocks[layer].parallel:
            step[mine] += 1
    return _Pulled(step, readouts.position, vectors, constant)


def _blocks(position: Int[Tensor, " row"], d_model: int) -> Iterator[Int[Tensor, " row"]]:
    """Rows in order of position, cut into blocks of one position each, or of several if small."""
    order = torch.argsort(position, stable=True)
    ordered = position[order].tolist()
    start = 0
    while start < len(ordered):
        stop = start
        while stop < len(ordered):
            size = (stop + 1 - start) * (ordered[stop] + 1) * d_model * 4
            later = ordered[stop] != ordered[max(stop - 1, start)]
            if stop > start and (size > BLOCK_BYTES or (later and stop - start >= SMALL_BLOCK)):
                break
            stop += 1
        yield order[start:stop]
        start = stop


class _Sweep:
    """One block of targets on its way down. Rows are ordered by ``step``, so that those already
    under way are always the first ``n``."""

    def __init__(self, transport: Transport, pulled: _Pulled) -> None:
        self.transport, self.local, self.pulled = transport, transport.local, pulled
        rows, width = pulled.vectors.shape
        self.width = int(pulled.position.max()) + 1
        self.g = pulled.vectors.new_zeros(rows, self.width, width)
        self.n = 0
        self.constant = pulled.constant.clone()
        local = self.local
        self.edges = self.g.new_zeros(rows, local.n_sources)
        self.to_features = self.edges[:, : len(local.features)]
        to_errors = self.edges[:, len(local.features) :][:, : local.n_errors]
        self.to_errors = to_errors.unflatten(1, (local.n_layers, -1))

    def run(self) -> Rows:
        """Edges of this block, columns in the order of :class:`Rows`."""
        for layer in reversed(range(self.local.n_layers)):
            self._enter(2 * layer + 2)
            self._block(layer)
        self._enter(0)
        if self.transport._outer is not None:
            self.to_features.copy_(self.to_features[:, self.transport._outer])
        first, snapshot = len(self.local.features) + self.local.n_errors, self.local.snapshot
        for embedding in (snapshot.token_embedding, snapshot.position_embedding):
            if embedding is not None:
                made = torch.einsum("rpd,pd->rp", self.g, embedding[: self.width])
                self.edges[:, first : first + self.width] = made
                first += self.local.n_positions
        return Rows(self.edges, self.constant)

    def _enter(self, step: int) -> None:
        """Let the targets of this step (and any above it) join."""
        upto = int((self.pulled.step >= step).sum())
        joining = torch.arange(self.n, upto, device=self.g.device)
        self.g[joining, self.pulled.position[joining]] += self.pulled.vectors[joining]
        self.n = upto

    def _block(self, layer: int) -> None:
        local = self.local
        block = local.snapshot.blocks[layer]
        g = self.g[: self.n]
        skipped = self._contract_mlp(layer, g) if self.n else None
        late = local.read_site.place == "resid_pre" or block.parallel
        if skipped is not None and not late:
            g += skipped
        if not block.parallel:
            self._enter(2 * layer + 1)
        if self.n:
            grown = self.g[: self.n]
            biases = block.attention.constant[: self.width]
            self.constant[: self.n] += torch.einsum("rpd,pd->r", grown, biases)
            block.attention.add_pulled(grown)
        if skipped is not None and late:
            g += skipped

    def _contract_mlp(self, layer: int, g: Cotangents) -> Cotangents | None:
        """Meet everything written at one MLP's output; returns what goes on through a skip."""
        local, n, width = self.local, self.n, self.width
        block = local.snapshot.blocks[layer]
        if local.write_site.before_norm and block.mlp_post_norm is not None:
            if block.mlp_post_norm.bias is not None:
                self.constant[:n] += (g @ block.mlp_post_norm.bias).sum(1)
            g = block.mlp_post_norm.pull(g)
        writes = self.transport._writes[layer]
        for q in range(width):
            first, last, column = writes.rows[q], writes.rows[q + 1], writes.columns[q]
            if last > first:
                target = self.to_features[:n, column : column + last - first]
                target.addmm_(g[:, q], writes.vectors[first:last].T)
        others = torch.stack([local.errors[layer, :width], local.base[layer, :width]], -1)
        met = torch.einsum("rpd,pdk->krp", g, others)
        self.to_errors[:n, layer, : max(width - local.prefix, 0)] = met[0, :, local.prefix :]
        self.constant[:n] += met[1].sum(1)
        return self._through_skip(layer, g)

    def _through_skip(self, layer: int, g: Cotangents) -> Cotangents | None:
        local = self.local
        skip = local.skip(layer)
        if skip is None:
            return None
        back, norm = g @ skip, local.snapshot.norm(layer)
        if local.read_site.norm == "affine":
            return norm.pull(back)
        if local.read_site.norm == "normalized":
            return norm.pull_normalized(back, norm.scale[: self.width])
        return back
