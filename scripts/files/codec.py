"""Compress a cine with a model, and decompress it; used by the command-line tools and by the evaluation.

Axes: H height, W width, S side of the model grid, D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from data.bitstream import container
from data.bitstream.entropy import TokenTable
from data.bitstream.header import Header, header_for
from data.bitstream.ladder import SymbolModel
from data.case import CineCase
from data.preprocess import Geometry, Prepared, apply_mask, heart_center, model_field, native_field, prepare
from data.scoring.images import Reference, open_reference, to_native
from data.window import real_values
from modeling.flow import SamplerOptions
from modeling.ladder.quantizer import step_size
from modeling.ladder.region import Region, region_of
from modeling.titok import TiTok
from modeling.weights.identity import Identity
from scripts.files.rate import HEAD_BYTES, file_of_size
from utils.config.ranges import AboveZero, Range, check_options
from utils.layout import TokenLayout
from utils.metrics import bounding_box

Rate = dict[str, Any]  # the name of a target and its value
DEFAULT_RATE: Rate = {"psnr": 38.0}
HEART_MM = 45.0
HeartWeight: TypeAlias = Annotated[float, Range(1, 64)]
OUTSIDE = ("zero", "mean")  # rules for voxels outside the model's field
_IDENTITIES: WeakKeyDictionary[nn.Module, Identity] = WeakKeyDictionary()


def add_rate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose the rate of a ladder."""
    add = parser.add_argument
    add("--bytes_per_frame", type=float, metavar="N", help="of a ladder: size of the file, in bytes a frame")
    add("--psnr", type=float, metavar="P", help="of a ladder: mean PSNR over frames in dB, at least (default 38)")
    heart = f"of a ladder: how many times finer the step is within {HEART_MM:g} mm of the heart's centre (default 1)"
    add("--heart_weight", type=float, default=1.0, metavar="W", help=heart)


def rate_of(args: argparse.Namespace) -> Rate | None:
    """Return the rate that the arguments choose; None if they choose none.

    Raises:
        ValueError: two are given, or a value is out of range.
    """
    rate = {name: getattr(args, name) for name in ("bytes_per_frame", "psnr") if getattr(args, name) is not None}
    if len(rate) == 2:
        raise ValueError("--bytes_per_frame and --psnr both choose the rate; give one of them")
    check_options(args, {"bytes_per_frame": AboveZero, "psnr": AboveZero, "heart_weight": HeartWeight})
    if args.heart_weight != 1:
        return {**(rate or DEFAULT_RATE), "heart_weight": args.heart_weight}
    return rate or None


def load_model(folder: Path, device: torch.device, batch_frames: int) -> TiTok:
    """Load a model from its folder to a device, in eval mode, with `batch_frames` frames per batch."""
    model = TiTok.from_pretrained(folder).to(device).eval()
    model.chunks.frames = batch_frames
    return model


def identity_of(model: TiTok) -> Identity:
    """Return the identity of a model; it is computed once, so the weights must not change afterwards."""
    if model not in _IDENTITIES:
        _IDENTITIES[model] = model.identity()
    return _IDENTITIES[model]


def predictor_of(model: TiTok) -> TokenTable | SymbolModel | None:
    """Return what predicts the tokens in a file: the context model of a ladder, or frequencies of frame tokens.

    None for a model without token counts.
    """
    if model.ladder is not None:
        return model.ladder.coder()
    counts = model.token_counts
    return TokenTable(counts) if counts and len(counts) == model.layout.codebook_size else None


def prepare_for(model: TiTok, case: CineCase) -> Prepared:
    """Bring a cine to the model grid; a ladder codes the whole image, without resampling."""
    if model.ladder is not None:
        return prepare(case, max(case.cine.shape[:2]), "fit")
    return prepare(case, model.config.image_size, model.config.geometry)


def open_for(model: TiTok, case: CineCase) -> Reference:
    """The original of a patient in the field of a model; that of a ladder is not resampled."""
    size, geometry = model.config.image_size, model.config.geometry
    if model.ladder is not None and geometry == "fit":
        size = max(case.cine.shape[:2])
    return open_reference(case, size, geometry)


def compress(model: TiTok, reference: Reference, keep: int | None = None, rate: Rate | None = None) -> bytes:
    """Compress a patient.

    Args:
        model: in eval mode on its device.
        reference: the patient.
        keep: number of transmitted tokens of each frame, or of the cine; None for all.
        rate: of a ladder, see `compress_case`.
    """
    case, prepared = reference.case, reference.prepared
    leaked: dict[str, Any] = {}
    if model.conditioning.leak is not None:
        leaked = {"ed": case.ed, "es": case.es, "mask": torch.from_numpy(masks_on_grid(reference))}
    if model.ladder is not None and prepared.geometry.scale < 1:
        prepared = prepare_for(model, case)
    return compress_case(model, case, prepared, keep, rate=rate, **leaked)


def compress_case(
    model: TiTok, case: CineCase, prepared: Prepared, keep: int | None = None, outside: str = "zero",
    rate: Rate | None = None, **leaked: Any,
) -> bytes:  # fmt: skip
    """Compress a cine.

    Args:
        model: in eval mode on its device.
        case: the native cine.
        prepared: the cine on the model grid.
        keep: number of transmitted tokens of each frame, or of the cine; None for all.
        outside: value of the voxels outside the model's field after decoding: `zero`, or `mean` for their mean value.
        rate: of a ladder: {"bytes_per_frame": of the whole file, "psnr" or "step": see `TiTok.encode`}, one of them;
            None for DEFAULT_RATE. With "heart_weight", the step is finer around the heart.
        leaked: ground truth, for a model with the conditioning `mask`.

    Returns:
        The bytes of the compressed file.
    """
    device = next(model.parameters()).device
    value = mean_outside(case, prepared) if outside == "mean" else None
    header = header_for(case, prepared, model.layout, **identity_of(model)._asdict(), outside=value)
    if model.ladder is not None:
        rows, columns = field_box(prepared.geometry)
        rate = dict(rate or DEFAULT_RATE)
        weight = rate.pop("heart_weight", 1.0)
        if weight != 1:
            rate["region"] = _heart(case, prepared.geometry, weight)
        x = torch.from_numpy(np.ascontiguousarray(prepared.image[:, rows, columns]))[None].to(device)
        return _at_rate(model, x, header, rate)
    if rate is not None:
        raise ValueError(f"this model has layout {model.layout.name}, whose rate is fixed: leave {', '.join(rate)} out")
    x = torch.from_numpy(prepared.image)[None].expand(-1, model.config.channels, -1, -1, -1, -1)
    leaked = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in leaked.items()}
    tokens = model.encode(x.to(device), keep_tokens=keep, **leaked)[0].cpu().numpy()
    return container.pack(tokens, header, predictor_of(model))


def _heart(case: CineCase, geometry: Geometry, weight: float) -> Region:
    """Return a disk around the heart, in pixels of the field."""
    top, left = (max(0, start) for start in geometry.offset)
    row, column = heart_center(case.cine, case.slope, case.intercept)
    return region_of((row - top, column - left), HEART_MM / max(case.spacing_mm[:2]), weight)


def _at_rate(model: TiTok, x: torch.Tensor, header: Header, rate: Rate) -> bytes:
    """Compress the native pixels of a field with a ladder; the size of the file is met to a few percent."""
    predictor, wanted = predictor_of(model), rate.pop("bytes_per_frame", None)
    if wanted is None:
        return container.pack(model.encode(x, **rate)[0].cpu().numpy(), header, predictor)
    frames = header.slices * header.phases
    total = wanted * frames
    if total <= HEAD_BYTES:
        raise ValueError(f"{wanted:g} bytes a frame cannot be met: the header alone is larger; give more bytes")

    def write(index: int) -> bytes:
        return container.pack(model.encode(x, step=step_size(index), **rate)[0].cpu().numpy(), header, predictor)

    tokens = model.encode(x, bytes_per_frame=(total - HEAD_BYTES) / frames, **rate)[0].cpu().numpy()
    index = int(header.layout.of(tokens).split(tokens, header.slices, header.phases)["step"][0, 0])
    data = file_of_size(total, index, container.pack(tokens, header, predictor), write)
    if data is None:
        raise ValueError(f"{wanted:g} bytes a frame cannot be met: a file of this cine is larger; give more bytes")
    return data


def field_box(geometry: Geometry) -> tuple[slice, slice]:
    """Rows and columns of the model grid that hold native pixels, of a geometry that does not resample."""
    return bounding_box(model_field(geometry))


def mean_outside(case: CineCase, prepared: Prepared) -> float | None:
    """Return the mean real value of the voxels outside the model's field; None if there are none."""
    field = native_field(prepared.geometry)
    if field.all():
        return None
    return float(np.float32(real_values(case.cine[~field], case.slope, case.intercept).mean(dtype=np.float64)))


def masks_on_grid(reference: Reference) -> np.ndarray:
    """Return the ground truth on the model grid, (1, S, S, D, T) uint8, for a model that encodes it.

    Raises:
        ValueError: ED or ES is not labelled.
    """
    case = reference.case
    if case.ed not in case.masks or case.es not in case.masks:
        raise ValueError(
            "the model encodes ground truth (conditioning mask), and ED or ES has none; leave the case out"
        )
    grid = np.zeros(reference.prepared.image.shape, np.uint8)
    for phase, labels in case.masks.items():
        on_grid = apply_mask(labels.transpose(2, 0, 1), reference.prepared.geometry)  # (D, S, S)
        grid[0, ..., phase] = on_grid.transpose(1, 2, 0)
    return grid


def read_tokens(model: TiTok, data: bytes, damaged: list[int] | None = None) -> tuple[np.ndarray, Header]:
    """Read the tokens and the header of a compressed file that this model can decode.

    Args:
        model: the model.
        data: the file.
        damaged: of a ladder: receives the slices that cannot be decoded; None refuses a damaged file.

    Raises:
        ValueError: the file is damaged, or a model with other tokens wrote it.
    """
    header = container.read_parts(data, checked=damaged is None).header
    expected = identity_of(model).tokens_id
    if header.tokens_id != expected:
        raise ValueError(
            f"the file was written by the model {header.tokens_id:016x}, but this model is {expected:016x} and its "
            "tokens differ; give the folder of the model that wrote the file"
        )
    written, own = _sizes(header.layout), _sizes(model.layout)
    if written != own:
        raise ValueError(f"the file is damaged: its header has {written}, but the model that it names has {own}")
    return container.unpack(data, predictor_of(model), damaged)


def _sizes(layout: TokenLayout) -> str:
    anatomy = f"{layout.num_anatomy} anatomy tokens of {layout.anatomy_codebook_size} codes"
    return f"{layout.num_tokens} tokens of {layout.codebook_size} codes ({layout.name}), {anatomy}"


def decoder_note(model: TiTok, header: Header) -> str | None:
    """Return a note if this model's decoder differs from that of the model that wrote the file, else None."""
    own = identity_of(model).pixels_id
    if own == header.pixels_id:
        return None
    return (
        f"another decoder ({own:08x}) than the writer's ({header.pixels_id:08x}); the pictures differ from the writer's"
    )


def decode(model: TiTok, tokens: np.ndarray, header: Header, options: SamplerOptions | None = None) -> np.ndarray:
    """Decode tokens to (S, S, D, T), from tokens and header alone; the channels of a colour tokenizer are averaged."""
    batch = torch.from_numpy(tokens)[None].to(next(model.parameters()).device)
    if model.ladder is not None:
        side, (rows, columns) = header.geometry.size, field_box(header.geometry)
        whole = np.zeros((side, side, header.slices, header.phases), np.float32)
        whole[rows, columns] = model.decode_tokens(batch, **(options or SamplerOptions())._asdict())[0, 0].cpu().numpy()
        return whole
    grid = None if header.layout.has_grid else (header.slices, header.phases)
    image = model.decode_tokens(batch, **(options or SamplerOptions())._asdict(), grid=grid)
    return image[0].float().mean(0).cpu().numpy()


def decompress(model: TiTok, data: bytes, options: SamplerOptions | None = None) -> np.ndarray:
    """Decode a compressed file to (S, S, D, T), from its bytes alone."""
    return decode(model, *read_tokens(model, data), options)


def reconstruct(model: TiTok, reference: Reference, data: bytes) -> np.ndarray:
    """Decode a compressed file of a patient to native pixels inside the field, (D, T, h, w)."""
    if model.ladder is None:
        return to_native(reference, decompress(model, data))
    tokens, header = read_tokens(model, data)
    rows, columns = field_box(header.geometry)
    return decode(model, tokens, header)[rows, columns].transpose(2, 3, 0, 1)


def field_of(model: TiTok) -> str:
    """Return the description of the model's field."""
    size = model.config.image_size
    if model.ladder is not None and model.config.geometry == "fit":
        return "the whole native image"
    words = {"crop": f"{size} x {size} native pixels around the heart", "fit": f"the whole image, {size} pixels a side"}
    return words[model.config.geometry]
