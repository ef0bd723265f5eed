"""Layers of hyperbolic networks, one a file. Feature maps are (B, n, H, W), points by their space coordinates."""
