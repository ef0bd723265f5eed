"""What a search holds beside its embeddings, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

WIDTH = 256
SIZES = (30_000, 90_000)

PROGRAM = """
import sys
import torch
from hyplearn.evaluation import tiles
from hyplearn.evaluation.metric import Embeddings, Metric
from hyplearn.evaluation.recall import evaluate


def highest():
    # bytes of the resident set at its largest; ru_maxrss would count what the parent process had before it
    line, = (line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024

index, points, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
tiles.ENTRIES = 1 << 20
x = torch.randn(points, width, generator=torch.Generator().manual_seed(0)).mul_(0.05)
labels = torch.arange(points) // 5
asked = torch.arange(points) % 400 == 0
evaluate(Embeddings(x[:2000], Metric("lorentz", 0.1)), labels[:2000], index=index)
before = highest()
evaluate(Embeddings(x, Metric("lorentz", 0.1)), labels, query=asked, index=index)
print(highest() - before)
"""


def held(index: str, points: int) -> int:
    """Bytes beyond the embeddings."""
    command = [sys.executable, "-c", PROGRAM, index, str(points), str(WIDTH)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
@pytest.mark.parametrize("index", ["faiss", "torch"])
def test_a_search_never_copies_its_gallery_to_float64(index: str) -> None:
    """With the gallery grow its one float32 copy and a few numbers a point; float64 would be twice that beside it."""
    few, many = SIZES
    copies = (held(index, many) - held(index, few)) / (4 * WIDTH * (many - few))
    assert 0.5 < copies < 2
