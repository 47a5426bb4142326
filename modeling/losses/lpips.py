"""LPIPS of the one-step decode: distance of the features of a photograph classifier. Needs `pip install lpips`.

The package downloads the weights of its backbone at first use. Its input is frames as grey images in [-1, 1].

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018.
"""

import socket
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeling.objective import LossOptions
from modeling.prediction import Prediction
from utils.config.ranges import NotNegative
from utils.types import Batch

BACKBONES = ("alex", "squeeze", "vgg")
SILENCE_SECONDS = 15.0  # longest wait for a connection, and for the next bytes


@dataclass
class Options(LossOptions):
    """`net` is the backbone: alex, squeeze or vgg."""

    weight: NotNegative = 0.1
    net: str = "alex"


class Lpips:
    """A mean over frames decoded from tokens alone; zero if x̂ = x. Not a module: it is neither trained nor saved."""

    needs = ("decoder",)

    def __init__(self, network: Any) -> None:
        self.network = network.eval().requires_grad_(False)

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of frames of one-step samples without padding."""
        return frames_of(batch, one_step).sum()

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the sum over frames of one-step samples without padding."""
        counted = frames_of(batch, prediction.one_step)
        if not counted.any():
            return prediction.image.new_zeros(())
        pictures = (prediction.image + prediction.error(), prediction.image)
        frames = (x.flatten(0, 2)[counted].float().expand(-1, 3, -1, -1) for x in pictures)
        self.network.to(prediction.image.device)
        distance = self.network(*frames, normalize=True)  # [0, 1] to [-1, 1]
        return distance.sum()


def frames_of(batch: Batch, one_step: Tensor) -> Tensor:
    """Return which frames belong to one-step samples and are not padding, (B * D * T,) bool."""
    return batch.valid_frames() & one_step.repeat_interleave(batch.image.shape[1] * batch.phase.shape[1])


def build(options: Options) -> Lpips:
    """Build the loss.

    Raises:
        ValueError: for an unknown backbone, or when the package is not installed.
    """
    if options.net not in BACKBONES:
        raise ValueError(f"losses.lpips.net is {options.net!r}: expected {', '.join(BACKBONES)}")
    try:
        import lpips
    except ImportError:
        raise ValueError(
            "losses.lpips needs a package that is not installed: pip install lpips, which downloads its backbone's "
            "weights when first used; losses.perceptual needs neither"
        ) from None
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)  # torch's own download would wait for minutes
    try:
        return Lpips(lpips.LPIPS(net=options.net, verbose=False))
    except OSError as error:
        raise OSError(
            f"losses.lpips: the weights of {options.net} cannot be downloaded ({error}); run it once on a machine with "
            f"a network, and copy {torch.hub.get_dir()}/checkpoints from there; losses.perceptual needs no download"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
