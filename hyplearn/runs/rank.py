"""Which of the processes of a distributed run writes."""

from __future__ import annotations

import os

# Set by torchrun; by Lightning and torchrun; by Lightning; by SLURM; by LSF.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def first_process() -> bool:
    """Whether this process is the only one, or the one of rank 0.

    It is known from the environment, before the processes have met and without torch.
    """
    return all(os.environ.get(name, "0") == "0" for name in RANKS)
