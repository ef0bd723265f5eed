"""Hyperbolic networks for images, with curvature that is learned."""

__version__ = "0.1.0"
