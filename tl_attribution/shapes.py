"""The axes of every public tensor, and the shapes that recur. jaxtyping checks them in the tests.

===============  ==================================================================================
axis             meaning
===============  ==================================================================================
``position``     token position in the prompt, 0 first, prefix included
``layer``        block of the model, 0 first
``d_model``      residual stream
``feature``      index of a feature within one layer's dictionary
``active``       features that are active on a prompt, ordered by layer, position, index
``node``         nodes of a graph, in the order of ``graph.nodes``
``head``         attention head (query heads)
``kv``           key/value head; ``head = kv * group``
``d_head``       width of one head
``row``          targets that are being traced together, or runs of a prompt, each changed otherwise
``clamp``        features that are held at a value, each in one row and at one position
``vocab``        token id
===============  ==================================================================================
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

Stream = Float[Tensor, "position d_model"]
"""The residual stream, or anything written to it, of one prompt at one layer."""

Streams = Float[Tensor, "layer position d_model"]
"""One such tensor for every layer."""

Activations = Float[Tensor, "layer position feature"]
"""Dense feature activations of one prompt."""

TokenIds = Int[Tensor, " position"]
"""One prompt as token ids."""

Cotangents = Float[Tensor, "row position d_model"]
"""For each row, the derivative of its target with respect to the residual stream."""

Changes = Float[Tensor, "row position d_model"]
"""For each edited run of a prompt, the difference of the residual stream from the original."""

StreamRows = Float[Tensor, "row position d_model"]
"""The residual stream at one layer in several runs of the same length."""

Logits = Float[Tensor, "position vocab"]
"""Next-token logits at every position of one prompt."""
