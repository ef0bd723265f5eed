"""The fused path: stretches of layers as one autograd function, on per-position scalars. Same values as layers."""
