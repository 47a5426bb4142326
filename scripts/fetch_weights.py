"""Download the weights of a recipe from the Hugging Face Hub in advance, for machines without a network.

Research use only, not a medical device.

    python scripts/fetch_weights.py config=configs/training/MRI/stage1/mri_titok_tokenizer_adapt.yaml
    python scripts/fetch_weights.py model.tokenizer.init=yucornetto/tokenizer_titok_b64_imagenet

Downloads go to the Hub's cache, $HF_HOME/hub; the backbone of the loss lpips goes to torch's cache, $TORCH_HOME. Set
these variables for other folders. Gated weights need `hf auth login` first. The commit that was downloaded is printed,
with the line that makes a recipe always use it.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling.conditioning import sam3
from modeling.config import ModelConfig
from modeling.objective import build_objective
from modeling.weights.hub import find_pretrained
from modeling.weights.pretrained import published_vq_model
from scripts.recipe import RunConfig
from utils.config.recipe import parse
from utils.errors import user_errors


def needed(model: ModelConfig, init_weight: str | None) -> list[tuple[str, str | None]]:
    """The weights that a run needs, each as (id or folder, revision)."""
    if init_weight is not None or model.decoder == "none" or model.tokenizer.init == "random":
        return []
    return [(model.tokenizer.init, model.tokenizer.revision)]


def fetch_others(config: RunConfig) -> list[str]:
    """Load the weights that a conditioning and a loss download by other packages; return a line for each.

    Raises:
        ValueError: a package is not installed.
        FileNotFoundError: the weights cannot be downloaded.
    """
    lines, conditioning = [], config.model.conditioning
    if conditioning.get("name") == "sam3":
        weights, revision = conditioning.get("weights", sam3.Options.weights), conditioning.get("revision")
        sam3.load_encoder(weights, revision)
        lines.append(f"{weights}: the vision encoder of model.conditioning, in the Hub's cache or its folder")
    if "lpips" in config.losses:
        build_objective({"lpips": config.losses["lpips"]})
        lines.append("losses.lpips: its backbone, in torch's cache")
    return lines


def pin(commit: str, revision: str | None) -> str:
    """Return what was downloaded, and the line of a recipe that makes later runs use the same weights.

    Args:
        commit: 40 hexadecimal digits.
        revision: from the recipe; None for the main branch.
    """
    if revision == commit:
        return f"commit {commit}, set by model.tokenizer.revision of the recipe"
    requested = "the main branch" if revision is None else f"revision {revision}"
    is_number = re.fullmatch(r"[0-9]+(e[0-9]+)?", commit)  # for YAML
    line = f"    revision: '{commit}'" if is_number else f"    revision: {commit}"
    return (
        f"{requested} is commit {commit} today; for the same weights in every run, write this line below `tokenizer:` "
        f"of `model:` into the recipe, or add model.tokenizer.revision={commit} to the command:\n{line}"
    )


@user_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s config=RECIPE [key=value ...]",
    )
    parser.add_argument("recipe", nargs="+", metavar="key=value", help="recipe and options of a training")
    args = parser.parse_intermixed_args()
    config = parse(RunConfig, [*args.recipe, "experiment.output_dir=unused"])
    sources, others = needed(config.model, config.experiment.init_weight), fetch_others(config)
    if not sources and not others:
        print("nothing to download: this recipe starts from experiment.init_weight or from random weights")
    for source, revision in sources:
        pretrained = find_pretrained(source, revision)
        vq_model = published_vq_model(pretrained.config, pretrained.where)
        size = pretrained.weights.stat().st_size / 1e6
        print(f"{source}: {pretrained.weights.name}, {size:.0f} MB, {vq_model.num_latent_tokens} tokens of "
              f"{vq_model.codebook_size} codes, {vq_model.image_size} px; in {pretrained.weights.parent}")  # fmt: skip
        if pretrained.commit is not None:
            print(pin(pretrained.commit, revision))
    for line in others:
        print(line)
    if sources or others:
        print("Training uses this copy without a network; with HF_HUB_OFFLINE=1 it does not contact the Hub")


if __name__ == "__main__":
    main()
