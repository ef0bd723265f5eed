"""What holds on this GPU, in at most eight minutes: the same as `hyplearn doctor --gpu`.

python scripts/gpu_check.py                      # on a GPU
python scripts/gpu_check.py --device cpu --toy   # that the parts run, in a minute
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hyplearn.cli.doctor.gpu import gpu

if __name__ == "__main__":
    sys.exit(gpu(sys.argv[1:]))
