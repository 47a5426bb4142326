"""The VQGAN pixel decoder."""

import torch
import torch.nn.functional as F
from torch import nn

from modeling.layers.pixel_decoder import doubled


def test_doubling_and_convolving_in_one_is_doubling_then_convolving() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, padding=1).double()
    x = torch.randn(2, 5, 4, 6, dtype=torch.double, requires_grad=True)
    expected = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(doubled(x, conv), expected)
    gradients = [torch.autograd.grad(y.square().sum(), [x, conv.weight]) for y in (expected, doubled(x, conv))]
    torch.testing.assert_close(gradients[0], gradients[1])
