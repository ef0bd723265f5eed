"""Which of the processes of a distributed run writes."""

from __future__ import annotations

import os
from typing import NamedTuple

# Set by torchrun; by Lightning and torchrun; by Lightning; by SLURM; by LSF.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class Started(NamedTuple):
    """How many processes a launcher has started on each node, and on how many nodes."""

    on_each_node: int
    nodes: int


def started_by_torchrun() -> Started | None:
    """What torchrun has started, None where it has not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    everywhere, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    return Started(here, everywhere // here)


def first_process() -> bool:
    """Whether this process is the only one, or the one of rank 0.

    It is known from the environment, before the processes have met and without torch.
    """
    return all(os.environ.get(name, "0") == "0" for name in RANKS)
