"""Models: one ResNet whose stages and head are data."""

from hyplearn.models.options import ConvolutionOptions, NormOptions, RescaleSites
from hyplearn.models.resnet import ResNet

__all__ = ["ConvolutionOptions", "NormOptions", "ResNet", "RescaleSites"]
