"""Reference segmenters: what a report may measure hearts with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.scoring.heart import score_heart
from data.scoring.images import open_reference, to_native
from modeling.titok import TiTok
from scripts.evaluation.segmenters import GridSegmenter, largest_components, open_segmenter
from tests.tiny import tiny_config, tiny_model
from tests.unit.scripts.test_evaluate_hearts import LEVELS, heart
from utils.checkpoint import hash_weights

CPU = torch.device("cpu")
INPUT = 48


class Brightness(torch.nn.Module):
    """Logits that tell structures by their brightness, with LV first and background last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        label = 3.0 - torch.stack([(x > level).float() for level in LEVELS]).sum(0)
        return torch.cat([(label == value).float() for value in range(4)], dim=1)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime", reason="an optional extra")
    pytest.importorskip("onnx", reason="needed to write the file of this test")
    path = tmp_path / "brightness.onnx"
    torch.onnx.export(
        Brightness(), (torch.zeros(1, 1, INPUT, INPUT),), str(path), dynamo=False, input_names=["x"],
        dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip
    path.with_suffix(".yaml").write_text(f"input_size: {INPUT}\nlabels: [3, 2, 1, 0]\n")
    return path


@pytest.mark.parametrize("mode", ["crop", "fit"])
def test_an_onnx_network_segments_originals_with_the_order_of_labels_of_its_yaml(network: Path, mode: str) -> None:
    opened = open_segmenter(network, CPU, batch_frames=3)
    assert opened is not None and opened.segmenter.name == "brightness"
    reference = open_reference(heart(0), 32, mode)
    found = score_heart(opened.segmenter, reference, to_native(reference, reference.prepared.image[0]))
    assert found["dice_mean"] > (0.9 if mode == "crop" else 0.7) and np.isnan(found["ed_phase_error"])


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("input_size: 48\nlabels: [0, 1, 2, 3, 0]\n", r"expected \(1, 5, 48, 48\); correct labels"),
        ("input_size: 4\n", "input_size: expected"),
        ("size: 48\n", "size: unknown key"),
        (None, r"brightness\.yaml is missing"),
        (f"input_size: {INPUT}\npercentiles: [99, 1]\n", r"percentiles is \[99.0, 1.0\], expected a smaller one"),
        (f"input_size: {INPUT}\nlabels: [0, 3, 2, 2]\n", r"labels is \[0, 3, 2, 2\], expected each of 0, 1"),
    ],
)
def test_an_onnx_network_that_does_not_fit_its_yaml_is_one_clear_line(
    network: Path, yaml: str | None, says: str
) -> None:
    options = network.with_suffix(".yaml")
    options.unlink() if yaml is None else options.write_text(yaml)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        open_segmenter(network, CPU, 4)


def test_a_file_that_is_no_onnx_is_one_clear_line(network: Path) -> None:
    network.write_bytes(b"not a network")
    with pytest.raises(ValueError, match="cannot be read as ONNX"):
        open_segmenter(network, CPU, 4)


def test_a_segmenter_of_another_field_sees_its_own_grid() -> None:
    model = tiny_model("none", conditioning="resnet18")
    reference = open_reference(heart(0), 24, "fit")
    segmenter = GridSegmenter("tiny", model, 4)
    frames = np.random.default_rng(0).random((2, 40, 36), np.float32)
    assert segmenter.labels(frames, reference).shape == frames.shape
    same = open_reference(heart(0), 32, "crop")
    assert np.array_equal(segmenter.labels(frames, reference), segmenter.labels(frames, same))


def test_only_the_largest_part_of_each_structure_is_kept() -> None:
    labels = np.zeros((3, 12, 12), np.uint8)
    labels[:, 2:6, 2:6], labels[0, 9:11, 9:11], labels[1, 3, 3] = 3, 3, 1
    found = largest_components(labels)
    assert (found[:, 2:6, 2:6] == labels[:, 2:6, 2:6]).all() and not found[0, 9:11, 9:11].any()
    assert np.array_equal(largest_components(np.zeros_like(labels)), np.zeros_like(labels))


def test_a_saved_model_names_every_segmenter_that_taught_it(tmp_path: Path) -> None:
    model = tiny_model(conditioning="unet")
    model.taught_by = ["an earlier one"]
    model.save_pretrained(tmp_path)
    loaded = TiTok.from_pretrained(tmp_path)
    assert model.segmenter is not None
    own = hash_weights(model.segmenter.state_dict())
    assert loaded.teachers() == sorted(["an earlier one", own]) == loaded.taught_by
    assert TiTok(tiny_config("titok")).teachers() == []
