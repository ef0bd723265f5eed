"""Hyperbolic networks for images, with curvature that is learned."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hyplearn")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
