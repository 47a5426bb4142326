"""Anatomy tokens by the small U-Net (modeling/unet.py), which also serves as a reference segmenter in evaluation."""

from modeling.conditioning._segmented import Options, SegmentedConditioning
from modeling.unet import UNet

__all__ = ["Options", "build"]


def build(options: Options) -> SegmentedConditioning:
    """Build the conditioning."""
    return SegmentedConditioning(options, UNet())
