"""The manifolds of one model: of which kind they are and which layers share a curvature."""

from __future__ import annotations

from typing import Any, Literal

import torch

from hyplearn.errors import one_of
from hyplearn.geometry.lorentz import X_T_MAX
from hyplearn.manifolds.curvature import Parametrization
from hyplearn.manifolds.curved import CurvedManifold
from hyplearn.manifolds.euclidean import Euclidean
from hyplearn.manifolds.interop import Manifold
from hyplearn.manifolds.lorentz import Lorentz
from hyplearn.manifolds.poincare import PoincareBall
from hyplearn.manifolds.sphere import Sphere

Kind = Literal["lorentz", "poincare", "euclidean", "sphere"]
Sharing = Literal["encoder_decoder", "single", "per_stage"]

_CURVED: dict[str, type[CurvedManifold]] = {"lorentz": Lorentz, "poincare": PoincareBall}
_FLAT: dict[str, type[Manifold]] = {"euclidean": Euclidean, "sphere": Sphere}


class Manifolds:
    """Hands a model its manifolds, each created at the first request and shared by all who ask for the same name.

    kind: the geometry. share: 'encoder_decoder' (one manifold for the encoder, one for the decoder; Bdeir Section 3.2),
    'single' (one for both), 'per_stage' (one per encoder stage, one for the decoder). c, learned, parametrization,
    bounds, s: see `Lorentz`; decoder_c: initial c of the decoder, by default c. x_t_max: largest time of the maximum
    distance rescaling; None for that of float32, 2e3, in every precision: the model would be another one if its limit
    followed the numbers that it computes with. inverse_c_between: (low, high), between which 1/c of every manifold is
    drawn when it is created, rounded to two decimals, in place of c and decoder_c; None for no draw. Kinds without
    curvature take none of these into account.

    A layer holds its manifold as a submodule, so that a shared one has many names in a model. For that reason
    torch.func.functional_call needs tie_weights=False: else it puts a value under all names and takes it back from one.
    """

    def __init__(
        self,
        kind: Kind = "lorentz",
        *,
        c: float = 1.0,
        learned: bool = True,
        parametrization: Parametrization = "K",
        bounds: tuple[float, float] = (0.05, 20.0),
        share: Sharing = "encoder_decoder",
        s: float = 2.0,
        x_t_max: float | None = None,
        decoder_c: float | None = None,
        inverse_c_between: tuple[float, float] | None = None,
    ) -> None:
        one_of("kind", kind, Kind)
        one_of("share", share, Sharing)
        if share == "single" and decoder_c is not None:
            raise ValueError(f"decoder_c={decoder_c} needs share='encoder_decoder' or 'per_stage', not share='single'")
        self.kind, self.share = kind, share
        self._c, self._decoder_c = c, c if decoder_c is None else decoder_c
        limit = X_T_MAX[torch.float32] if x_t_max is None else x_t_max
        self._options: dict[str, Any] = {
            "learned": learned, "parametrization": parametrization, "bounds": bounds, "s": s, "x_t_max": limit,
        }  # fmt: skip
        self._made: dict[str, Manifold] = {}
        self._range = _checked_range(inverse_c_between)
        ends = () if self._range is None else tuple(1 / end for end in self._range)
        for value in (self._c, self._decoder_c, *ends):  # a wrong value stops here, not when a layer asks
            self._make(value)

    def _make(self, c: float) -> Manifold:
        return _CURVED[self.kind](c, **self._options) if self.kind in _CURVED else _FLAT[self.kind]()

    def _get(self, name: str, c: float) -> Manifold:
        if name not in self._made:
            self._made[name] = self._make(self._drawn(c))
        return self._made[name]

    def _drawn(self, c: float) -> float:
        """Return c, or a draw in its place, from torch's random numbers as all weights of a model are."""
        if self._range is None:
            return c
        low, high = self._range
        return 1 / min(max(round(low + (high - low) * torch.rand(()).item(), 2), low), high)

    def encoder(self, stage: int | str | None = None) -> Manifold:
        """The manifold of an encoder stage. stage: its number (or name), needed with share='per_stage' only."""
        if self.share == "single":
            return self._get("shared", self._c)
        if self.share == "encoder_decoder":
            return self._get("encoder", self._c)
        if stage is None:
            raise ValueError("stage=None: share='per_stage' needs the number or the name of the stage")
        return self._get(f"encoder.stage{stage}" if isinstance(stage, int) else f"encoder.{stage}", self._c)

    def decoder(self) -> Manifold:
        """The manifold of the head."""
        return self._get("shared", self._c) if self.share == "single" else self._get("decoder", self._decoder_c)

    @property
    def curved(self) -> bool:
        """Whether this kind has a curvature."""
        return self.kind in _CURVED

    def embedding(self, name: str, *, kind: Kind | None = None, c: float | None = None) -> Manifold:
        """The manifold of one space of an embedding; each name has its own. kind, c: in place of the family's."""
        kind = self.kind if kind is None else kind
        if kind in _CURVED and not self.curved:
            raise ValueError(
                f"kind={kind!r} needs a curvature, which kind={self.kind!r} of the manifolds does not have"
            )
        if name not in self._made:
            if kind in _CURVED:
                self._made[name] = _CURVED[kind](self._drawn(self._c) if c is None else c, **self._options)
            else:
                self._made[name] = _FLAT[kind]()
        return self._made[name]

    def manifolds(self) -> dict[str, CurvedManifold]:
        """The curved manifolds handed out so far, by name: 'encoder', 'decoder', 'shared', 'encoder.stage1', ..."""
        return {name: manifold for name, manifold in self._made.items() if isinstance(manifold, CurvedManifold)}


def _checked_range(between: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the two ends as floats. Raises ValueError unless 0 < low <= high."""
    if between is None:
        return None
    low, high = float(between[0]), float(between[1])
    if not 0 < low <= high:
        raise ValueError(f"inverse_c_between={tuple(between)} must satisfy 0 < low <= high, for example (0.41, 7.0)")
    return low, high
