"""Whether a GPU may round the factors of float32 products to TF32, ten bits of the mantissa instead of 23.

Said once for a run, `allow`, because torch allows it in convolutions unless told otherwise. Where squared norms and
inner products are subtracted from each other, three digits are too few whatever the run allows: that code stands in
`refused`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def allow(allowed: bool) -> None:
    """Set it for convolutions and matrix products of the whole process. A CPU knows no TF32."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def is_allowed() -> bool:
    """Whether TF32 is allowed anywhere."""
    return bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)


def refused() -> AbstractContextManager[None]:
    """Compute float32 products in float32 within this context, in eager mode; then as before.

    A graph that is being compiled or exported is not split for it: an operator that needs float32 is opaque to it.
    """
    if torch.compiler.is_compiling() or not is_allowed():
        return nullcontext()
    return _off()


@contextmanager
def _off() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    allow(False)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
