from __future__ import annotations

import random

import numpy as np
import torch

from hyplearn.training.seeding import seed_everything


def draws(*key: int) -> tuple[float, float, float]:
    seed_everything(*key)
    return random.random(), float(np.random.rand()), torch.rand(()).item()  # noqa: NPY002


def test_a_key_gives_the_same_numbers_and_another_key_others() -> None:
    assert draws(0, 1, 2) == draws(0, 1, 2)
    keys = [(0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1), (0, 1, 3)]
    assert all(len({draws(*key)[generator] for key in keys}) == len(keys) for generator in range(3))


def test_the_three_generators_are_not_seeded_alike() -> None:
    seed_everything(5)
    python, numpy = random.getrandbits(31), int(np.random.randint(2**31))  # noqa: NPY002
    assert len({python, numpy, int(torch.randint(2**31, ()))}) == 3
