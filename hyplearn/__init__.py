"""Hyperbolic networks for images, with curvature that is learned."""

__version__ = "0.1.0"  # the one place it is written: the build reads it here

__all__ = ["__version__"]
