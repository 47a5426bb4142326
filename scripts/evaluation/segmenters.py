"""Reference segmenters of a report: a trained model of this project, or an ONNX file with its YAML file."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage

from data import preprocess
from data.preprocess import Geometry
from data.scoring.heart import ReferenceSegmenter
from data.scoring.images import Reference
from modeling.titok import TiTok
from scripts.files.codec import load_model
from utils.config.ranges import Range
from utils.config.recipe import from_plain
from utils.config.yaml_text import read_yaml


class Opened(NamedTuple):
    """A reference segmenter, with its hash and the hashes of all segmenters used in its training (`lineage`).

    A model stores the hashes of the segmenters used in its training. If one hash is in both lists, the reference
    segmenter is not independent of the model. `settings` are what its labels depend on besides the weights, as plain
    values.
    """

    segmenter: ReferenceSegmenter
    lineage: set[str]
    settings: Any = None


def largest_components(labels: np.ndarray) -> np.ndarray:
    """Keep the largest connected part of each structure of a stack, and make the rest background.

    Args:
        labels: (D, S, S) uint8.

    Returns:
        (D, S, S) uint8.
    """
    result = np.zeros_like(labels)
    for label in np.unique(labels[labels > 0]):
        parts, count = ndimage.label(labels == label, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        sizes[0] = 0
        result[parts == sizes.argmax()] = label
    return result


class GridSegmenter:
    """The segmenter of a TiTok-MRI model, on that model's own grid.

    Args:
        name: for the report.
        model: in eval mode on its device, with a segmenter.
        batch_frames: number of frames in a batch.
    """

    every_phase = True

    def __init__(self, name: str, model: TiTok, batch_frames: int) -> None:
        assert model.segmenter is not None
        self.name, self.network, self.batch_frames = name, model.segmenter, batch_frames
        self.size, self.mode = model.config.image_size, model.config.geometry
        self.device = next(model.segmenter.parameters()).device
        self._placed: tuple[str, Geometry] | None = None

    def labels(self, frames: np.ndarray, reference: Reference) -> np.ndarray:
        """See `ReferenceSegmenter`."""
        geometry = self._geometry(reference)
        grid = torch.from_numpy(np.clip(preprocess.apply(frames, geometry), 0, 1)).float()[:, None]
        parts = [self.network.labels(part.to(self.device)).cpu() for part in grid.split(self.batch_frames)]
        return preprocess.invert(largest_components(torch.cat(parts).numpy()), geometry, order=0)

    def _geometry(self, reference: Reference) -> Geometry:
        """The geometry of this segmenter for a patient, which may differ from that of the evaluated model."""
        evaluated, case = reference.prepared.geometry, reference.case
        if (evaluated.size, evaluated.mode) == (self.size, self.mode):
            return evaluated
        if self._placed is None or self._placed[0] != case.patient:
            center = preprocess.place(case).center if self.mode == "crop" else None
            self._placed = case.patient, preprocess.plan(case.cine.shape[:2], self.size, self.mode, center)
        return self._placed[1]


@dataclass
class OnnxOptions:
    """The input and output of an ONNX segmenter, from its YAML file.

    Args:
        input_size: side S of the square input (N, 1, S, S); the centre square of the image is resized to it.
        percentiles: two percentiles of the intensities above 0 of one phase; they are scaled to 0 and 1.
        labels: label of each output channel: 0 background, 1 RV, 2 MYO, 3 LV.
    """

    input_size: Annotated[int, Range(16, 2048)]
    percentiles: tuple[Annotated[float, Range(0, 100)], Annotated[float, Range(0, 100)]] = (0.0, 100.0)
    labels: list[Annotated[int, Range(0, 3)]] | None = None

    def __post_init__(self) -> None:
        if not self.percentiles[0] < self.percentiles[1]:
            raise ValueError(f"percentiles is {list(self.percentiles)}, expected a smaller one, then a larger one")
        if self.labels is not None and set(self.labels) != {0, 1, 2, 3}:
            raise ValueError(f"labels is {self.labels}, expected each of 0, 1 (RV), 2 (MYO) and 3 (LV)")


class OnnxSegmenter:
    """A 2-D segmentation network as an ONNX file, (N, 1, S, S) float32 to (N, labels, S, S).

    Frames are segmented one by one: on a CPU a batch is not faster and needs more memory.

    Args:
        path: the .onnx file; its options are in the .yaml file of the same name.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: onnxruntime is not installed, or the network does not fit its options.
    """

    every_phase = False

    def __init__(self, path: Path) -> None:
        options = path.with_suffix(".yaml")
        for needed in (path, options):
            if not needed.is_file():
                raise FileNotFoundError(
                    f"--segmenter {path}: {needed.name} is missing; an ONNX segmenter is two files, NAME.onnx and "
                    "NAME.yaml with input_size, percentiles and labels (docs/evaluation.md)"
                )
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("--segmenter: an ONNX file needs an extra package: pip install onnxruntime") from None
        self.name = path.stem
        self.options = from_plain(OnnxOptions, read_yaml(options), str(options))
        try:
            self.session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has its own exception classes
            raise ValueError(f"--segmenter {path}: cannot be read as ONNX ({str(error).splitlines()[0]})") from None
        self.input = self.session.get_inputs()[0].name
        self._check(path)

    def _check(self, path: Path) -> None:
        size = self.options.input_size
        try:
            shape = self._run(np.zeros((1, 1, size, size), np.float32)).shape
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"--segmenter {path}: does not accept an input of shape (1, 1, {size}, {size}) float32 ({reason}); "
                f"correct input_size in {path.with_suffix('.yaml').name}"
            ) from None
        labels = self.options.labels or list(range(4))
        if shape != (1, len(labels), size, size):
            raise ValueError(
                f"--segmenter {path}: its output has shape {shape}, expected (1, {len(labels)}, {size}, {size}); "
                f"correct labels or input_size in {path.with_suffix('.yaml').name}"
            )
        self.table = np.array(labels, np.uint8)

    def _run(self, frames: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.input: frames})[0]

    def labels(self, frames: np.ndarray, reference: Reference) -> np.ndarray:
        """See `ReferenceSegmenter`."""
        height, width = frames.shape[1:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = (slice(None), slice(top, top + side), slice(left, left + side))
        low, high = np.percentile(frames[frames > 0], self.options.percentiles) if (frames > 0).any() else (0.0, 1.0)
        scaled = ((np.clip(frames, low, high) - low) / max(high - low, 1e-6))[square]
        size = (self.options.input_size,) * 2
        inputs = preprocess.resize(scaled.astype(np.float32), size, order=1)[:, None]
        labels = self.table[np.concatenate([self._run(frame[None]).argmax(1) for frame in inputs])]
        result = np.zeros(frames.shape, np.uint8)
        result[square] = preprocess.resize(labels, (side, side), order=0)
        return result


def open_segmenter(path: Path, device: torch.device, batch_frames: int) -> Opened | None:
    """Open the segmenter of a model folder or of an ONNX file; None for a model without a segmenter.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the segmenter cannot be used.
    """
    if path.suffix == ".onnx":
        onnx = OnnxSegmenter(path)
        hashed = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        return Opened(onnx, {hashed}, asdict(onnx.options))
    model = load_model(path, device, batch_frames)
    if model.segmenter is None:
        return None
    settings = [model.config.image_size, model.config.geometry, model.config.conditioning]
    return Opened(GridSegmenter(path.resolve().name, model, batch_frames), set(model.teachers()), settings)
