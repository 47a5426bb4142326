"""The settings of `accelerate launch` are ones that accelerate knows, and the Slurm job starts it once a machine."""

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from tests.tiny import REPOSITORY

FOLDER = REPOSITORY / "configs" / "accelerate"
PROCESSES = {"one_gpu": (1, 1), "ddp_8_gpus": (1, 8), "several_nodes": (2, 16)}  # machines, processes of all
SLURM = FOLDER / "slurm.sh"


@pytest.mark.parametrize("name", PROCESSES)
def test_accelerate_reads_the_file_and_starts_as_many_processes_as_its_name_says(name: str) -> None:
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.num_machines, config.num_processes) == PROCESSES[name]
    kind = "NO" if name == "one_gpu" else "MULTI_GPU"
    assert config.distributed_type.value == kind and config.compute_environment.value == "LOCAL_MACHINE"
    assert config.mixed_precision == "no" and not config.use_cpu and config.gpu_ids == "all"
    assert config.main_process_ip is None  # of the command line
    assert not (config.fsdp_config or config.deepspeed_config or config.dynamo_config)


def test_there_is_no_other_file_and_each_begins_with_its_command() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == PROCESSES.keys()
    for path in FOLDER.iterdir():
        text = path.read_text()
        head = "\n".join(line for line in text.splitlines()[:14] if line.startswith("#"))
        assert "Not run on" in head and f"configs/accelerate/{path.name}" in head and "config=configs/training/" in head


def test_accelerate_refuses_a_key_that_it_does_not_know(tmp_path: Path) -> None:
    config = yaml.safe_load((FOLDER / "one_gpu.yaml").read_text())
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config | {"num_gpus": 1}))
    with pytest.raises(ValueError, match="unknown keys \\(\\['num_gpus'\\]\\)"):
        load_config_from_file(str(tmp_path / "a.yaml"))


def run_job(folder: Path, status: int, seconds_left: int) -> subprocess.CompletedProcess[str]:
    """Run the Slurm job with stand-ins for Slurm's commands and accelerate; srun starts the task of the second node."""
    programs = {
        "scontrol": '[[ $1 == show ]] && printf "node7\\nnode8\\n" || echo "scontrol $*"',
        "srun": 'shift; SLURM_NODEID=1 "$@"',
        "accelerate": f'printf "%s\\n" "accelerate" "$@"; exit {status}',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    given = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "4", "SLURM_JOB_ID": "12",
             "SLURM_JOB_END_TIME": str(int(time.time()) + seconds_left)}  # fmt: skip
    environment = {**os.environ, **given, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", str(SLURM), "config=a recipe.yaml", "experiment.output_dir=run #2"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_slurm_job_is_a_valid_script_that_asks_for_a_signal_and_to_be_requeued() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True, timeout=60)
    asked = [line.split(" ", 1)[1] for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=TERM@120", "--requeue", "--ntasks-per-node=1"} <= set(asked)


def test_the_slurm_job_starts_accelerate_with_the_rank_of_the_node_and_the_options_as_given(tmp_path: Path) -> None:
    done = run_job(tmp_path, status=0, seconds_left=3600)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    options = dict(zip(words[2:-3:2], words[3:-3:2], strict=True))
    assert words[:2] == ["accelerate", "launch"] and options == {
        "--config_file": "configs/accelerate/several_nodes.yaml", "--num_machines": "2", "--num_processes": "16",
        "--machine_rank": "1", "--main_process_ip": "node7", "--main_process_port": "29500",
    }  # fmt: skip
    assert words[-3:] == ["scripts/train_mri_titok.py", "config=a recipe.yaml", "experiment.output_dir=run #2"]


@pytest.mark.parametrize(("status", "seconds_left", "again"), [(1, 60, True), (1, 3600, False), (0, 60, False)])
def test_the_slurm_job_goes_back_to_the_queue_if_the_time_limit_ended_it(
    tmp_path: Path, status: int, seconds_left: int, again: bool
) -> None:
    done = run_job(tmp_path, status, seconds_left)
    assert done.returncode == status and ("scontrol requeue 12" in done.stdout) == again
