"""A run is what its recipe says, whatever stands in the environment."""

import types

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType

from utils.run import launch
from utils.run.launch import environment_notes, make_accelerator


def gradient(monkeypatch: pytest.MonkeyPatch, **environment: str) -> float:
    """The gradient of 3 w after a backward pass of an accelerator that is made in this environment."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    for name, value in {"ACCELERATE_USE_CPU": "true", **environment}.items():
        monkeypatch.setenv(name, value)
    accelerator = make_accelerator("no")
    model, optimizer = torch.nn.Linear(1, 1, bias=False), None
    optimizer = torch.optim.SGD(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    assert accelerator.mixed_precision == "no" and not hasattr(model, "_orig_mod")
    accelerator.backward(3 * model(torch.ones(1, 1)).sum())
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return float(model.weight.grad)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        {"ACCELERATE_MIXED_PRECISION": "bf16"},
        {"ACCELERATE_DYNAMO_BACKEND": "EAGER"},
    ],
)
def test_the_environment_does_not_change_a_gradient(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    assert gradient(monkeypatch, **environment) == 3.0


def test_what_the_environment_asks_for_otherwise_is_reported() -> None:
    notes = environment_notes(
        "no",
        {
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
            "ACCELERATE_MIXED_PRECISION": "bf16",
            "ACCELERATE_DYNAMO_BACKEND": "inductor",
            "ACCELERATE_USE_FSDP": "true",
            "NVIDIA_TF32_OVERRIDE": "1",
            "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0",
            "HOME": "/home/somebody",
        },
    )
    assert len(notes) == 5
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 is ignored; used instead: training.gradient" in " ".join(notes)
    assert "ACCELERATE_USE_FSDP=true of the environment has an effect" in notes[-2]
    assert notes[-1] == "NVIDIA_TF32_OVERRIDE=1 of the environment has an effect on this run"


@pytest.mark.parametrize("library", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG", "SAGEMAKER"])
def test_an_environment_that_asks_to_split_the_model_is_refused_by_the_name_of_the_variable(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{library}", "true")
    with pytest.raises(ValueError, match=f"ACCELERATE_USE_{library} is set .* each rank needs the whole model"):
        launch.process_state()


def test_what_accelerate_launch_sets_by_itself_is_no_news() -> None:
    usual = {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "no",
        "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_USE_CPU": "True",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    }
    assert environment_notes("no", usual) == []


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_a_launcher_that_splits_the_model_is_refused(monkeypatch: pytest.MonkeyPatch, kind: DistributedType) -> None:
    monkeypatch.setattr(launch, "Accelerator", lambda **_: types.SimpleNamespace(distributed_type=kind))
    with pytest.raises(ValueError, match=f"the launcher requests {kind.value}, but each rank needs the whole model"):
        make_accelerator("no")
