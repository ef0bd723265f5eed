"""Randomness as a function of where training is: nothing to save, and a resumed run draws what it would have drawn."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(*key: int) -> None:
    """Seed Python, NumPy and torch (every device) from a tuple of non-negative integers."""
    words = np.random.SeedSequence(key).generate_state(3, np.uint32).tolist()
    random.seed(words[0])
    np.random.seed(words[1])  # noqa: NPY002 - the global generator is what augmentation code of others uses
    torch.manual_seed(words[2])
