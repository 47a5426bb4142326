"""Anatomy tokens by the ResNet18 segmenter (modeling/heart/segmenter.py)."""

from modeling.conditioning._segmented import Options, SegmentedConditioning
from modeling.heart.segmenter import Segmenter

__all__ = ["Options", "build"]


def build(options: Options) -> SegmentedConditioning:
    """Build the conditioning."""
    return SegmentedConditioning(options, Segmenter())
