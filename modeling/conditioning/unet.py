"""Anatomy tokens by the small U-Net of modeling/heart/unet.py, which is also a reference segmenter in evaluation."""

from modeling.conditioning._segmented import Options, SegmentedConditioning
from modeling.heart.unet import UNet

__all__ = ["Options", "build"]


def build(options: Options) -> SegmentedConditioning:
    """Build the conditioning."""
    return SegmentedConditioning(options, UNet())
