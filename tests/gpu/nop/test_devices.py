"""No trial trains on another device than its user believes; on a GPU that computes nothing."""

from __future__ import annotations

import pytest
import torch

from spaces.errors import InputError
from tests.gpu.nop.conftest import Nop
from trainers.devices import gpus_here, pick_device, visible_gpus


def _picked() -> str:
    try:
        return str(pick_device())
    except InputError as error:
        return str(error)


def _visible() -> list[str]:
    return visible_gpus()


def test_a_gpu_that_torch_can_use_is_taken(nop: Nop) -> None:
    assert nop(_picked) == "cuda"
    assert nop(_picked, SEGTUNE_DEVICE="cpu") == "cpu"
    assert nop(gpus_here, NOPGPU_COUNT="2", NOPGPU_NAME="NVIDIA L4") == ["NVIDIA L4"] * 2


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (
            {"NOPGPU_OLD_DRIVER": "1"},
            "Nop GPU cannot be used: its driver 550.163.01 is too old, with CUDA 12.4; torch "
            f"{torch.__version__} needs CUDA 13: install driver 580 or newer, or a torch build for "
            "CUDA 12 (torch 2.14 was the last with a build for CUDA 12.6, see "
            "pytorch.org/get-started), or train on the CPU with SEGTUNE_DEVICE=cpu",
        ),
        (
            {"NOPGPU_CC": "70", "NOPGPU_NAME": "Tesla V100-SXM2-16GB"},
            "Tesla V100-SXM2-16GB cannot be used: it has compute capability 7.0, but torch "
            f"{torch.__version__} was built for 7.5, 8.0,",
        ),
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES='' names none of them"),
        ({"CUDA_VISIBLE_DEVICES": "3"}, "CUDA_VISIBLE_DEVICES='3' names none of them"),
        ({"SEGTUNE_DEVICE": "gpu"}, "SEGTUNE_DEVICE=gpu: must be cpu or cuda, or not set"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_refused(env: dict[str, str], said: str, nop: Nop) -> None:
    assert said in nop(_picked, **env)


def test_a_newer_card_of_a_known_generation_is_taken(nop: Nop) -> None:
    assert nop(_picked, NOPGPU_CC="89") == "cuda"  # runs what was built for 8.6


def test_slices_of_a_card_are_counted_by_their_names(nop: Nop) -> None:
    """torch counts one: a process sees one slice."""
    assert nop(_visible, NOPGPU_COUNT="2") == ["0", "1"]
    assert nop(_visible, NOPGPU_COUNT="4", CUDA_VISIBLE_DEVICES="2,3") == ["2", "3"]
    three = nop(_visible, CUDA_VISIBLE_DEVICES="MIG-a,MIG-b,MIG-c")
    assert three == ["MIG-a", "MIG-b", "MIG-c"]
    assert nop(_visible, NOPGPU_MIG="2") == ["MIG-0-0", "MIG-0-1"]
