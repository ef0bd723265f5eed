"""`hyplearn plot <kind>`: figures of finished runs."""

from __future__ import annotations

from collections.abc import Sequence

from hyplearn.cli.commands import KINDS, function, plot_overview
from hyplearn.errors import OK, ConfigError, nearest


def plot(argv: Sequence[str]) -> int:
    """Run `hyplearn plot <argv>`."""
    kind, *rest = argv or ["--help"]
    if kind in ("-h", "--help"):
        plot_overview().print_help()
        return OK
    if kind not in KINDS:
        raise ConfigError(f"hyplearn plot knows no {kind!r}.{nearest(kind, KINDS)} (kinds: {', '.join(KINDS)})")
    run = function(kind, KINDS[kind])
    assert callable(run)
    status: int = run(rest)
    return status
