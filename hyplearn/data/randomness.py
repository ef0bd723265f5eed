"""Random streams that depend on their key alone, never on what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(*key: int | str) -> int:
    """A 64-bit seed from a key such as `(seed, "order", epoch)`; different keys give unrelated streams."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator for `key`. A run that resumes makes the same one, so no state has to be stored."""
    return torch.Generator().manual_seed(derived_seed(*key))
