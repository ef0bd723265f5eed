"""The one place that imports geoopt, whose import alone warns about its own use of torch.jit."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=DeprecationWarning)
    import geoopt
    from geoopt import ManifoldParameter, ManifoldTensor
    from geoopt.manifolds.base import Manifold

__all__ = ["Manifold", "ManifoldParameter", "ManifoldTensor", "geoopt"]
