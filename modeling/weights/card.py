"""The model card: README.md of a saved model, with the header that the Hugging Face Hub reads."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from utils.files import write_text
from utils.layout import TokenLayout
from utils.report.columns import COLUMNS
from utils.text import read_text

NAME = "README.md"
TEMPLATE = Path(__file__).with_name("card.md.j2")
LIBRARY, TAGS = "titok-mri", ["cardiac-mri", "cine-mri", "image-compression", "medical-imaging", "titok", "tokenizer"]
LAST_LINE = re.compile(r"<!-- written by TiTok-MRI, ([0-9a-f]{32}) -->\n\Z")
METRICS = ("psnr", "ssim", "psnr_heart", "dice_mean", "bits_per_frame", "ratio_int16")
PURPOSE = {
    "frame": "Each frame of a 4-D cardiac cine MRI (slices × phases) becomes {tokens} tokens, and the cine is decoded "
    "from the tokens alone.",
    "sequence": "A whole 4-D cardiac cine MRI (slices × phases) becomes {tokens} tokens, and the cine is decoded from "
    "the tokens alone.",
    "ladder": "A rate ladder: it codes 4-D cardiac cine MRI (slices × phases) of any size at the rate or quality that "
    "is chosen when the cine is encoded.",
    "segmenter": "A segmenter of RV, MYO and LV in frames of cardiac cine MRI. It has no tokens and decodes nothing.",
}
DANGER = {
    "decodes": "A generative decoder can invent, remove or move anatomy.",
    "segmenter": "A segmentation can be wrong without any sign of it.",
}
GEOMETRY = {
    "crop": "{size} × {size} native pixels around the heart, without resampling",
    "fit": "the whole image, reduced to {size} × {size} pixels where it is larger",
}
USE = {
    "frame": "tokens = model.encode(x)\ndecoded = model.decode_tokens(tokens)  # (1, {channels}, S, S, D, T) in [0, 1]",
    "sequence": "tokens = model.encode(x)\n"
    "decoded = model.decode_tokens(tokens, grid=(2, 6))  # (1, {channels}, S, S, D, T) in [0, 1]",
    "ladder": "tokens = model.encode(x, step=0.2)  # or bytes_per_frame=100, or psnr=38\n"
    "decoded = model.decode_tokens(tokens)  # (1, 1, H, W, D, T) in [0, 1]",
}


def model_card(
    config: Mapping[str, Any],
    layout: TokenLayout | None,
    parameters: int,
    training_record: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    license: str | None = None,
    leak: str | None = None,
) -> ModelCard:
    """Write the card of a model from plain values; unknown values are left out or marked as unknown.

    Args:
        config: ModelConfig as plain data.
        layout: layout of the tokens; None for a segmenter.
        parameters: number of weights.
        training_record: section of that name of config.json: data, steps and losses of the training.
        summary: summary.json of a report of scripts/evaluate.py; its last model must be this model.
        license: licence of the weights, as the Hub names it, such as `cc-by-nc-sa-4.0`. For None the card states that
            the publisher of the weights has to choose one.
        leak: ground truth that the model encodes.

    Returns:
        The card; its text begins with the header in YAML.

    Raises:
        ValueError: the summary is not that of a report.
    """
    kind = "segmenter" if layout is None else layout.name
    sizes = {"tokens": getattr(layout, "num_tokens", 0), "channels": config["channels"]}
    task = "image-segmentation" if layout is None else "image-to-image"
    data = ModelCardData(library_name=LIBRARY, tags=list(TAGS), pipeline_tag=task, license=license)
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title="segmenter" if layout is None else f"layout {kind}",
        purpose=PURPOSE[kind].format(**sizes),
        danger=DANGER["segmenter" if layout is None else "decodes"],
        facts={**_facts(config, layout), "weights": f"{parameters / 1e6:,.2f} million"},
        training=_training(training_record),
        results=None if summary is None else _results(summary),
        snippet=_snippet(config, kind),
        leak=leak,
    )


def write_card(folder: Path, card: ModelCard) -> bool:
    """Write a card as README.md of a folder, unless it holds a README.md that a user wrote or edited.

    The last line of a written card holds a hash of the text before it. An existing README.md is replaced only if it has
    this line and the hash is that of its text. To get a new card, remove or rename README.md.

    Args:
        folder: the folder of the model.
        card: the card.

    Returns:
        Whether it was written; False where README.md is kept.
    """
    path = folder / NAME
    if path.exists() and not _is_unchanged(path):
        return False
    text = f"{str(card).rstrip()}\n\n"
    write_text(path, f"{text}<!-- written by TiTok-MRI, {_hash(text)} -->\n")
    return True


def _is_unchanged(path: Path) -> bool:
    """Return whether a README.md is a card without later changes."""
    try:
        text = read_text(path)
    except ValueError:
        return False
    match = LAST_LINE.search(text)
    return match is not None and match[1] == _hash(text[: match.start()])


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _facts(config: Mapping[str, Any], layout: TokenLayout | None) -> dict[str, str]:
    """Return the properties of the model by name, from its config."""
    size = config["tokenizer"]["vq_model"]["image_size"]
    field = GEOMETRY[config["geometry"]].format(size=size)
    conditioning = config["conditioning"].get("name", "none")
    if layout is None:
        return {"segmenter": conditioning, "image size": f"{size} px", "geometry": field}
    if layout.name == "ladder":
        ladder = config["ladder"]
        steps = f"steps of {ladder['finest_step']} to {ladder['coarsest_step']} in training"
        return {
            "layout of the tokens": layout.name,
            "image size": "any; a file holds the whole image without resampling",
            "geometry": f"in training: {field}",
            "rate": f"chosen when a cine is encoded, by its bytes, PSNR or step; {steps}",
            "refinement": ladder["refinement"]["name"],
        }
    latent = next(part for part in layout.fields(1, 1) if not part.is_index)
    unit = "frame" if layout.name == "frame" else "cine, for any number of slices and phases"
    bits = layout.num_tokens * latent.bits
    rate = f"{layout.num_tokens} tokens of {layout.codebook_size} codes: {bits} bits a {unit}, without header"
    if layout.num_anatomy:
        own = next(part for part in layout.fields(1, 1) if part.name == "anatomy")
        rate += f"; and {layout.num_anatomy} anatomy tokens of {own.bits} bits for each of ED and ES of a slice"
    return {
        "layout of the tokens": layout.name,
        "image size": f"{size} px, {config['channels']} channel(s)",
        "geometry": field,
        "rate": rate,
        "decoder": {"dit": "DiT", "titok": "the tokenizer's own decoder"}[config["decoder"]],
        "conditioning": conditioning,
        "tokenizer began from": _origin(config["tokenizer"]),
    }


def _origin(tokenizer: Mapping[str, Any]) -> str:
    """Return the source of a tokenizer, without local folders."""
    source = Path(tokenizer["init"])
    name = source.name if source.is_absolute() else str(source)
    return name if tokenizer["revision"] is None else f"{name}, revision {tokenizer['revision']}"


def _training(record: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the properties of the training by name, from its record."""
    return {
        name.replace("_", " "): ", ".join(value) if isinstance(value, list) else str(value)
        for name, value in (record or {}).items()
    }


def _results(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of a report's summary, and notes for their reader."""
    missing = [key for key in ("model", "mean", "std", "n", "data", "split") if key not in summary]
    if missing:
        raise ValueError(
            f"summary has no {', '.join(missing)}: expected the content of summary.json of a report of "
            "scripts/evaluate.py; read that file"
        )
    keys = [key for key in METRICS if key in summary["mean"]]
    rows = [[COLUMNS[key].heading, *(_number(summary[part].get(key), key) for part in ("mean", "std"))] for key in keys]
    notes = [note for note in summary.get("notes", []) if note.startswith("LEAK: ")]
    independent = summary.get("reference_segmenter", {}).get("independent_of", {})
    if "dice_mean" in keys and not independent.get(summary["model"], True):
        notes.append(
            "The segmenter that measured Dice was used in the training of this model, so Dice is too favourable."
        )
    text = f"`{summary['model']}` on {summary['data']}, split {summary['split']}, {summary['n']} patients"
    return {"text": f"{text}, by `scripts/evaluate.py`:", "rows": rows, "notes": notes}


def _number(value: float | None, key: str) -> str:
    """A value of a metric as text; a dash where summary.json has none."""
    return "–" if value is None else f"{value:,.{COLUMNS[key].decimals}f}"


def _snippet(config: Mapping[str, Any], kind: str) -> str:
    """Python code that loads the model, and encodes and decodes a cine."""
    load = 'model = TiTok.from_pretrained("MODEL")  # this folder, or its id on the Hub; in eval mode'
    if kind == "segmenter":
        return f"from modeling.titok import TiTok\n\n{load}"
    channels, size = config["channels"], config["tokenizer"]["vq_model"]["image_size"]
    cine = f"x = torch.rand(1, {channels}, {size}, {size}, 2, 6)  # (1, C, H, W, slices, phases) in [0, 1]"
    use = USE[kind].format(channels=channels)
    return f"import torch\n\nfrom modeling.titok import TiTok\n\n{load}\n{cine}\n{use}"
