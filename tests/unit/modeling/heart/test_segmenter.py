"""The segmenter."""

import pytest
import torch
from torch import nn

from modeling.heart.segmenter import FixedSegmenter, Segmenter
from modeling.heart.unet import UNet


@pytest.mark.parametrize("network", [Segmenter, UNet])
@pytest.mark.parametrize("size", [32, 64, 80])
def test_logits_have_the_size_of_the_input(size: int, network: type[Segmenter | UNet]) -> None:
    segmented = network()(torch.rand(2, 1, size, size))
    assert segmented.logits.shape == (2, 4, size, size) and segmented.features.shape[1] == 128


@pytest.mark.parametrize("network", [Segmenter, UNet])
def test_a_frame_is_segmented_alike_alone_and_among_others(network: type[Segmenter | UNet]) -> None:
    """No statistic is shared within a batch, so that ranks agree."""
    torch.manual_seed(0)
    segmenter, frames = network().train(), torch.rand(3, 1, 32, 32)
    alone = segmenter(frames[1:2]).logits
    assert torch.allclose(segmenter(frames).logits[1:2], alone, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in segmenter.modules())


def test_labels_of_mirrored_probabilities_follow_the_mirror() -> None:
    torch.manual_seed(0)
    segmenter, frames = UNet(), torch.rand(2, 1, 32, 32)
    assert not torch.equal(segmenter.labels(frames.flip(3)), segmenter.labels(frames).flip(2))
    segmenter.mirror = True
    assert torch.equal(segmenter.labels(frames.flip(3)), segmenter.labels(frames).flip(2))


def test_the_gradient_of_a_fixed_segmenter_reaches_the_frames_and_not_its_weights() -> None:
    segmenter, frames = Segmenter(), torch.rand(1, 2, 1, 32, 32, requires_grad=True)
    logits = FixedSegmenter(segmenter, frames).logits
    assert logits.shape == (1, 2, 4, 32, 32)
    assert torch.allclose(logits[0], segmenter(frames[0]).logits, atol=1e-5)
    logits.square().mean().backward()
    assert frames.grad is not None and frames.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in segmenter.parameters())


def test_a_few_steps_teach_it_a_disc() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter()
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    labels = (((row - 14).square() + (column - 18).square()) < 60).long() * 3
    frames = (0.2 + 0.6 * (labels > 0))[None, None] + 0.05 * torch.randn(4, 1, 32, 32)
    optimizer = torch.optim.Adam(segmenter.parameters(), 1e-3)
    for _ in range(15):
        loss = nn.functional.cross_entropy(segmenter(frames).logits, labels.expand(4, -1, -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (segmenter.labels(frames) == labels).float().mean() > 0.95


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_loss_segments_in_the_precision_of_the_model_also_outside_its_autocast(precision: torch.dtype) -> None:
    segmenter, seen = UNet(), []
    segmenter.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", precision):
        fixed = FixedSegmenter(segmenter, torch.rand(1, 1, 1, 32, 32))
    fixed.segment(torch.rand(1, 1, 1, 32, 32))
    assert seen == [precision]
