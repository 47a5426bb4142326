"""A conversion of six small patients, one of them damaged, for the tests of shards."""

from collections.abc import Callable
from pathlib import Path

from data.shards.conversion import Plan
from data.sources.acdc import AcdcSource

PATIENTS = [f"patient{number:03d}" for number in range(1, 7)]
SPLIT = dict(zip(PATIENTS, ["train", "test", "train", "train", "val", "train"], strict=True))


def write_patients(folder: Path, acdc_patient: Callable[..., Path]) -> Plan:
    """Write the patients to `folder/acdc`, and return the plan of their conversion."""
    for number, patient in enumerate(PATIENTS):
        acdc_patient(folder / "acdc" / patient, hwd=(16, 18, 2), phases=4, ed=1, es=3, seed=number)
    (folder / "acdc" / PATIENTS[3] / f"{PATIENTS[3]}_4d.nii.gz").write_bytes(b"damaged")
    return make_plan(folder)


def make_plan(folder: Path, **settings: int) -> Plan:
    return Plan(AcdcSource(folder / "acdc"), SPLIT, {"seed": 0, **settings}, shard_bytes=15000)
