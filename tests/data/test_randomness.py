from __future__ import annotations

import torch

from hyplearn.data.randomness import derived_seed, generator


def test_a_key_always_gives_the_same_stream() -> None:
    assert derived_seed(3, "order", 1) == 11890104125921632580  # in any process, on any machine
    first, second = (torch.rand(5, generator=generator(3, "order", 1)) for _ in range(2))
    assert torch.equal(first, second)


def test_keys_that_differ_anywhere_give_other_streams() -> None:
    keys = [
        (3, "order", 1),
        (3, "order", 2),
        (4, "order", 1),
        (3, "augmentation", 1),
        (31, "order"),
        (3, "order", 1, 0),
    ]
    assert len({derived_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= derived_seed(*key) < 2**64 for key in keys)
