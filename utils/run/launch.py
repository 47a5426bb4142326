"""Accelerate with the settings of the recipe; environment variables are ignored, or reported if they have an effect."""

import os
from collections.abc import Mapping

from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, TorchDynamoPlugin
from accelerate.utils.environment import parse_flag_from_env

PINNED = {  # ignored variable -> setting that is used instead
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "training.gradient_accumulation_steps",
    "ACCELERATE_MIXED_PRECISION": "training.mixed_precision",
    "ACCELERATE_DYNAMO_BACKEND": "no compilation",
}
HARMLESS = ("ACCELERATE_DYNAMO_", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_USE_CPU", "ACCELERATE_DEBUG_MODE")
SPLIT = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
SPLITTING = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG", "SAGEMAKER")  # after ACCELERATE_USE_
NUMERICS = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # precision of float32 on a GPU
UNSET = ("", "no", "none", "false", "0")
NEUTRAL = (*UNSET, "1")


def process_state() -> PartialState:
    """The processes of this run; on CPUs several ranks are seen only if ACCELERATE_USE_CPU is respected.

    Raises:
        ValueError: for an environment that asks accelerate to split the model over ranks.
    """
    for name in (f"ACCELERATE_USE_{library}" for library in SPLITTING):
        if parse_flag_from_env(name):
            raise ValueError(
                f"{name} is set in the environment, but each rank needs the whole model; unset it, or use "
                "configs/accelerate/ddp_8_gpus.yaml"
            )
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def make_accelerator(precision: str) -> Accelerator:
    """An accelerator that ignores the environment: the training loop sums gradients, and nothing is compiled.

    Args:
        precision: no, fp16 or bf16.
    Raises:
        ValueError: for a launcher that splits the model over ranks.
    """
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the training loop divides
        dynamo_plugin=TorchDynamoPlugin(backend="no"),  # type: ignore[arg-type]
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.distributed_type in SPLIT:
        raise ValueError(
            f"the launcher requests {accelerator.distributed_type.value}, but each rank needs the whole model; use "
            "configs/accelerate/ddp_8_gpus.yaml"
        )
    return accelerator


def environment_notes(precision: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """One line for each variable that contradicts the recipe, or that has an effect on the run.

    They are the variables of accelerate, and those that change the precision of float32 on a GPU.

    Args:
        precision: mixed precision of the recipe: no, fp16 or bf16.
        environ: the environment.
    """
    notes = []
    for name, value in sorted(environ.items()):
        if name in PINNED:
            if value.lower() not in ((precision,) if name == "ACCELERATE_MIXED_PRECISION" else NEUTRAL):
                notes.append(f"{name}={value} is ignored; used instead: {PINNED[name]}")
        elif (name.startswith(("ACCELERATE_", "FSDP_")) and not name.startswith(HARMLESS)) or name in NUMERICS:
            if value.lower() in UNSET:
                continue
            notes.append(f"{name}={value} of the environment has an effect on this run")
    return notes
