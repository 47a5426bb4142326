"""Anatomy tokens by the small U-Net of modeling/heart/unet.py, which is also a reference segmenter in evaluation."""

from dataclasses import dataclass
from typing import Annotated

from modeling.conditioning import _segmented
from modeling.conditioning._segmented import SegmentedConditioning
from modeling.heart.unet import UNet
from utils.config.ranges import Range


@dataclass
class Options(_segmented.Options):
    """Options beside those of modeling/conditioning/_segmented.py.

    Args:
        channels: factor of the number of channels of the U-Net.
    """

    channels: Annotated[int, Range(1, 8)] = 1


def build(options: Options) -> SegmentedConditioning:
    """Build the conditioning."""
    return SegmentedConditioning(options, UNet(options.channels))
