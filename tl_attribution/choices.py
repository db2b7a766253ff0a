"""Values of the arguments that choose a mode, shared by the functions and the command line.

This module imports nothing heavy: the command line shows the values before torch is loaded.
"""

from __future__ import annotations

from typing import Literal

EngineName = Literal["closed_form", "autograd"]
"""How edges are computed: by matrix products, or slowly by automatic differentiation."""

Propagation = Literal["direct", "constrained", "iterative"]
"""How a change spreads through the model: see :func:`tl_attribution.intervene`."""
