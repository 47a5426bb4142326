"""The model card says what the config says and nothing else, and README.md that somebody edited is kept."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import hub_mixin

from modeling.titok import TiTok
from scripts.training.output import training_record, write_output
from tests.tiny import REPOSITORY, tiny_config, tiny_model

SUMMARY: dict[str, Any] = {
    "model": "stage3", "data": "acdc_wds", "split": "test", "n": 16,
    "mean": {"psnr": 20.284, "ssim": 0.5211, "dice_mean": 0.62, "psnr_heart": None, "bits_per_frame": 93.27},
    "std": {"psnr": 1.431, "ssim": 0.05, "dice_mean": 0.1, "bits_per_frame": 2.0},
}  # fmt: skip
RUN: dict[str, Any] = {
    "dataset": {"shards": "/home/somebody/acdc_wds/", "unit": "slice"},
    "training": {"global_batch_size": 6},
    "losses": {"pixel": {}, "flow": {}},
    "experiment": {"init_weight": "/home/somebody/stage1/checkpoint_last.pth", "seed": 4},
}


def header_of(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def card_of(model: TiTok, **options: Any) -> str:
    return str(model.generate_model_card(**options))


def row(text: str, name: str) -> str:
    return re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", text, re.MULTILINE)[0]


def test_the_facts_of_a_card_are_those_of_the_config() -> None:
    model = tiny_model(conditioning="unet")
    text, layout = card_of(model), model.layout
    assert row(text, "layout of the tokens") == "frame" and row(text, "image size").startswith("32 px")
    assert row(text, "geometry").startswith("32 × 32 native pixels around the heart")
    assert row(text, "decoder") == "DiT" and row(text, "conditioning") == "unet"
    bits = layout.id_bits(layout.join(layout.split(torch.zeros(layout.shape(1, 1), dtype=torch.long), 1, 1)), 1, 1)
    rate = re.search(r"8 tokens of 64 codes: (\d+) bits a frame.* (\d) anatomy tokens of (\d+) bits", row(text, "rate"))
    assert rate is not None
    frame, anatomy, width = map(int, rate.groups())
    assert frame == 48 and frame + 2 * anatomy * width == bits  # of one frame, with ED and ES
    count = sum(parameter.numel() for parameter in model.parameters())
    assert row(text, "weights") == f"{count / 1e6:,.2f} million"


def test_a_card_has_the_header_that_the_hub_reads() -> None:
    header = header_of(card_of(tiny_model()))
    assert header["library_name"] == "titok-mri" and header["pipeline_tag"] == "image-to-image"
    assert "cardiac-mri" in header["tags"] and "license" not in header
    segmenter = TiTok(tiny_config("none", conditioning="unet"))
    assert header_of(card_of(segmenter))["pipeline_tag"] == "image-segmentation"


def test_the_licence_of_the_weights_is_left_to_the_user() -> None:
    assert "No licence is set for these weights" in card_of(tiny_model())
    text = card_of(tiny_model(), license="cc-by-nc-sa-4.0")
    assert header_of(text)["license"] == "cc-by-nc-sa-4.0" and "No licence" not in text


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (tiny_model(layout="sequence"), "6 tokens of 64 codes: 36 bits a cine"),
        (tiny_model(layout="ladder"), "chosen when a cine is encoded"),
    ],
)
def test_the_rate_is_that_of_the_layout(model: TiTok, words: str) -> None:
    assert words in row(card_of(model), "rate")


@pytest.mark.parametrize("layout", ["frame", "sequence", "ladder"])
def test_the_code_of_a_card_loads_the_model_and_decodes_a_cine(layout: str, tmp_path: Path) -> None:
    tiny_model(layout=layout).save_pretrained(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace('"MODEL"', repr(str(tmp_path))), names)
    assert names["decoded"].shape == names["x"].shape == (1, 1, 32, 32, 2, 6)


def test_results_are_those_of_the_summary_and_none_are_invented() -> None:
    assert "No results were given" in card_of(tiny_model())
    text = card_of(tiny_model(), summary=SUMMARY)
    assert "| PSNR (dB) | 20.28 | 1.43 |" in text and "| Dice | 0.620 | 0.100 |" in text
    assert "| heart PSNR (dB) | – | – |" in text and "ratio, int16" not in text
    assert "`stage3` on acdc_wds, split test, 16 patients" in text and "too favourable" not in text
    taught = {**SUMMARY, "reference_segmenter": {"independent_of": {"stage3": False}}}
    assert "too favourable" in card_of(tiny_model(), summary=taught)
    with pytest.raises(ValueError, match=r"summary has no model, mean.*summary\.json"):
        card_of(tiny_model(), summary={"psnr": 40})


def test_the_training_is_recorded_without_places_and_comes_back_with_the_model(tmp_path: Path) -> None:
    model, record = tiny_model(), training_record(RUN, 40)
    assert "not recorded" in card_of(model)
    assert record == {
        "data": "acdc_wds", "unit": "slice", "steps": 40, "samples_a_step": 6, "losses": ["flow", "pixel"],
        "first_weights": "stage1", "seed": 4,
    }  # fmt: skip
    remote = {**RUN, "dataset": {"shards": "https://a.b/x_wds?key=1", "unit": "slice"}}
    assert training_record(remote, 1)["data"] == "x_wds"
    model.training_record = record
    model.save_pretrained(tmp_path)
    again = card_of(TiTok.from_pretrained(tmp_path))
    assert again == card_of(model)
    assert row(again, "steps") == "40" and row(again, "losses") == "flow, pixel" and "somebody" not in again
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong in ("40 steps", {"steps": None}):
        (tmp_path / "config.json").write_text(json.dumps({**config, "training_record": wrong}))
        with pytest.raises(ValueError, match=r"config\.json: training_record is .* export it again"):
            TiTok.from_pretrained(tmp_path)


def test_a_card_is_renewed_until_somebody_edits_it(tmp_path: Path) -> None:
    path, model = tmp_path / "README.md", tiny_model()
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, model_card_kwargs={"summary": SUMMARY})
    assert "20.28" in path.read_text()
    for edited in (path.read_text().replace("20.28", "38.00"), path.read_text() + "More.\n", "mine", ""):
        path.write_text(edited)
        model.save_pretrained(tmp_path)
        assert path.read_text() == edited
    path.write_bytes(b"\xff\xfe\xff")
    model.save_pretrained(tmp_path)
    assert path.read_bytes() == b"\xff\xfe\xff"


def test_the_export_of_a_run_has_a_card_and_says_where_an_edited_one_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    config = {**RUN, "model": {}}
    write_output(tmp_path, config, model, [], 40)
    assert row((tmp_path / "README.md").read_text(), "steps") == "40" and not capsys.readouterr().out
    (tmp_path / "README.md").write_text("mine")
    write_output(tmp_path, config, model, [], 41)
    assert (
        tmp_path / "README.md"
    ).read_text() == "mine" and "README.md was edited and is kept" in capsys.readouterr().out


def test_the_card_of_a_model_that_encodes_ground_truth_warns_of_it() -> None:
    assert "**Do not publish this model**" in card_of(tiny_model(conditioning="mask"))
    assert "Do not publish" not in card_of(tiny_model())


def test_push_to_hub_uploads_the_card_the_config_and_the_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uploaded: dict[str, bytes] = {}

    class Api:
        def __init__(self, token: object = None) -> None: ...

        def create_repo(self, repo_id: str, **options: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id: str, folder_path: Path, **options: object) -> str:
            uploaded.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
            return f"https://huggingface.co/{repo_id}/commit/0"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    model, options = tiny_model(), {"summary": SUMMARY, "license": "cc-by-nc-sa-4.0"}
    assert model.push_to_hub("owner/name", private=True, model_card_kwargs=options).endswith("owner/name/commit/0")
    model.save_pretrained(tmp_path, model_card_kwargs=options)
    assert uploaded == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert uploaded.keys() == {"README.md", "config.json", "model.safetensors"}


def test_the_card_cites_the_project_as_the_readme_does() -> None:
    citation = re.findall(r"```bibtex\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert re.findall(r"```bibtex\n(.*?)```", card_of(tiny_model()), re.DOTALL) == citation
