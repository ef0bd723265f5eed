"""Narrow 1 x 1 convolutions with a stride: right, and never in oneDNN's crash."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from hyplearn.nn.strided import NARROW, read_positions

# The gradients of narrow networks by oneDNN must be as near to those in double precision as torch's own are. These
# differ by 1e-3 to 1e-2 because rounding moves some values over the kink of a ReLU.
STEP = """
import copy, sys, torch
from hyplearn.config import build
from hyplearn.config.compose import compose

def gradients(network, images):
    network.zero_grad()
    torch.nn.functional.cross_entropy(network(images), torch.arange(32) % 10).backward()
    return torch.cat([p.grad.double().flatten() for p in network.parameters() if p.grad is not None])

for name in sys.argv[1:]:
    config = compose([f"model={name}", "model.width=4", "dataset=synthetic"]).config
    torch.manual_seed(0)
    network = build.model(config, {"num_classes": 10, "in_channels": 3, "image_size": 32})
    images = torch.randn(32, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    right = gradients(copy.deepcopy(network).double(), images.double())
    with torch.backends.mkldnn.flags(enabled=False):
        plain = ((gradients(network, images) - right).norm() / right.norm()).item()
    error = ((gradients(network, images) - right).norm() / right.norm()).item()
    assert error < 3 * plain + 1e-4, (name, error, plain)
    print(name, error, flush=True)
"""
NETWORKS = ("euclidean_r18", "euclidean_r50", "hecnn_r18", "hcnn_r18", "hcnn_original_r18", "poincare_resnet_r18")


@pytest.mark.parametrize("stride", [(2, 2), (3, 1)])
@pytest.mark.parametrize("size", [(5, 6), (1, 1), (8, 8)])
def test_it_equals_the_strided_convolution(stride: tuple[int, int], size: tuple[int, int]) -> None:
    x = torch.randn(2, 4, *size, dtype=torch.double)
    weight = torch.randn(6, 4, 1, 1, dtype=torch.double)
    read, left = read_positions(x, kernel=(1, 1), stride=stride, padding=(0, 0))
    assert left == (1, 1)
    assert_close(torch.conv2d(read, weight), torch.conv2d(x, weight, stride=stride))


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding"),
    [
        (4, (3, 3), (2, 2), (1, 1)),
        (4, (1, 1), (1, 1), (0, 0)),
        (4, (1, 1), (2, 2), (1, 1)),
        (NARROW, (1, 1), (2, 2), (0, 0)),
    ],
)
def test_all_others_are_left_alone(channels: int, kernel, stride, padding) -> None:
    x = torch.randn(2, channels, 6, 6)
    read, left = read_positions(x, kernel=kernel, stride=stride, padding=padding)
    assert read is x
    assert left == stride


@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_no_narrow_network_crashes_or_hangs(instructions: str) -> None:
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STEP, *NETWORKS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(NETWORKS)
