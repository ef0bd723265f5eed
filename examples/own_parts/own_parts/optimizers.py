"""An optimizer. Any torch optimizer serves flat models; this one keeps what hyperbolic models need."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hyplearn.optim import RiemannianAdamW


class CentralizedAdamW(RiemannianAdamW):
    """Takes its mean from the gradient of each weight matrix and kernel before the step (Yong et al. 2020).

    Points of manifolds, curvatures and all options are those of `RiemannianAdamW`.
    """

    def _step_weights(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor]) -> None:
        super()._step_weights(group, params, [centralized(gradient) for gradient in gradients])


def centralized(gradient: Tensor) -> Tensor:
    """Return the gradient less its mean over all dimensions but the first; vectors and numbers stay as they are."""
    if gradient.ndim < 2:
        return gradient
    return gradient - gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True)
