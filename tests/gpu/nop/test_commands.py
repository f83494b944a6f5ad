"""The product from its commands on, on a GPU that computes nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from search.database.store import open_store
from search.studies.heartbeats import workers
from search.studies.study import study_names
from search.work.child import Done, Epoch, Failed, TrialProcess, trials_device
from tests.blobs import write_blobs
from tests.gpu.nop.conftest import Nop
from tests.gpu.nop.runs import blobs, small
from tests.waiting import Running, until

STUDY = """\
name: small
task: segmentation
data:
  train: {images: train/images, masks: train/masks}
  val: {images: val/images, masks: val/masks}
  classes: [blob]
space:
  train.epochs: 2
  train.batch_size: 4
  data.resolution: 64x64
  model.arch: Unet
  model.encoder: mobilenet_v2
  model.encoder_weights: null
  optim.lr: {low: 1e-4, high: 1e-3, log: true}
  optim.encoder_lr_ratio: 1
budget: {trials: 2}
pruner: none
confirm: none
"""
STORE = "sqlite:///store.db"
NOP = {"SEGTUNE_STORE": STORE, "NOPGPU_NAME": "NVIDIA L4"}


@pytest.fixture
def study(nop: Nop) -> Path:
    """The folder in which commands run, with a small study."""
    write_blobs(nop.folder, train=4, val=2)
    (nop.folder / "study.yaml").write_text(STUDY)
    return nop.folder


def _segtune(*words: str) -> None:
    from search.cli import main

    sys.argv = ["segtune", *words]
    main()


def _lost(folder: Path) -> Any:
    """The last message of a child whose GPU is gone since its worker began."""
    assert trials_device() == "cuda"
    os.environ["NOPGPU_OLD_DRIVER"] = "1"
    child = TrialProcess(small(), blobs(), folder, {})
    message: object = None
    while not isinstance(message, Done | Failed):
        assert not isinstance(message, Epoch), "it trains"
        message = child.receive(300)
    child.join()
    return message


def test_a_child_never_trains_on_the_cpu_in_place_of_a_lost_gpu(nop: Nop) -> None:
    message = nop(_lost, nop.folder / "trial")
    assert isinstance(message, Failed) and message.device and not message.unfit
    assert "driver 550.163.01 is too old" in message.message


@pytest.mark.parametrize(
    "words", ["check study.yaml", "launch study.yaml", "worker --until-idle", "doctor"]
)
def test_commands_refuse_a_gpu_that_torch_cannot_use(words: str, nop: Nop, study: Path) -> None:
    """Nothing is started. `evaluate` and `train` ask the same function."""
    if words.startswith("worker"):
        nop(_segtune, "check", "study.yaml", **NOP, SEGTUNE_DEVICE="cpu")  # makes the store
    code = 1 if words == "doctor" else 2
    nop(_segtune, *words.split(), code=code, **NOP, NOPGPU_OLD_DRIVER="1")
    assert "NVIDIA L4 cannot be used: its driver 550.163.01 is too old" in nop.output
    assert "Traceback" not in nop.output
    if (study / "store.db").exists():
        with closing(open_store(f"sqlite:///{study}/store.db")) as store:
            assert study_names(store) == [] and workers(store) == []


def test_a_study_from_check_to_status(nop: Nop, study: Path) -> None:
    nop(_segtune, "check", "study.yaml", **NOP)
    assert "device: NVIDIA L4, bf16" in nop.output
    assert "Unet/mobilenet_v2 at 64x64, batch 4: micro-batch 4, " in nop.output
    nop(_segtune, "check", "study.yaml", **NOP, NOPGPU_MIB="32")
    assert "out of memory with one image at a time" in nop.output
    nop(_segtune, "launch", "study.yaml", **NOP, PYTORCH_NO_CUDA_MEMORY_CACHING="0")
    nop(_segtune, "status", "small", "--json", **NOP)
    trials = json.loads(nop.output)["trials"]
    # whatever lay in its memory is what was computed
    assert {t["reason"] for t in trials} <= {"completed", "health:trivial", "nonfinite"}
    for trial in trials:
        hardware = trial["hardware"]
        assert hardware["device"] == "NVIDIA L4" and hardware["precision"] == "bf16"
        assert hardware["peak_memory_mb"] > 20
    nop(_segtune, "status", "small", **NOP)
    assert "trained on NVIDIA L4 in bf16: 2 trials, at most" in nop.output


def test_a_worker_goes_on_when_trials_run_out_of_memory(nop: Nop, study: Path) -> None:
    given = {**NOP, "NOPGPU_MIB": "40", "PYTORCH_NO_CUDA_MEMORY_CACHING": "0"}
    nop(_segtune, "launch", "study.yaml", **given)
    assert nop.output.count("PRUNED (oom)") == 2 and "Traceback" not in nop.output


@pytest.mark.cluster
@pytest.mark.parametrize("task", ["segmentation", "text_detection"])
def test_the_demo(task: str, nop: Nop) -> None:
    nop(_segtune, "demo", "--task", task, "--trials", "2", "--to", "demo", **NOP)
    nop(_segtune, "status", "--json", **NOP)
    for study in json.loads(nop.output)["studies"]:
        assert all(trial["hardware"]["device"] == "NVIDIA L4" for trial in study["trials"])


def _measure() -> None:
    from benchmarks.gpu import main

    sizes = "--resolution 64x64 --text 96 --epochs 2 --pairs 1"
    sys.argv = ["gpu", *sizes.split(), "--to", "gpu.md"]
    main()


@pytest.mark.cluster
def test_the_figures_of_a_card(nop: Nop, camvid: Path, sroie: Path) -> None:
    """What `make gpu-check` writes, but for the numbers."""
    nop(_measure, NOPGPU_NAME="NVIDIA L4")
    text = (nop.folder / "gpu.md").read_text()
    assert text.startswith("# segtune on NVIDIA L4") and "| segtune |" in text
    assert "## Text detection at 96 (SROIE)" in text


@pytest.mark.cluster
def test_each_of_two_workers_has_a_card_of_its_own(
    nop: Nop, nop_environment: dict[str, str], study: Path
) -> None:
    """On the embedded Postgres, as a user has it."""
    home = {"SEGTUNE_HOME": str(study / "home"), "NOPGPU_COUNT": "2"}
    program = [sys.executable, "-m", "search.cli"]
    env = nop_environment | home
    slow = STUDY.replace("train.epochs: 2", "train.epochs: 2000").replace("trials: 2", "trials: 9")
    (study / "study.yaml").write_text(slow)
    launched = Running.program(
        *program, "launch", "study.yaml", "--workers", "2", cwd=study, env=env
    )

    def devices() -> list[str]:
        status = Running.segtune("status", "--json", cwd=study, env=home).finish(code=None)
        crew = json.loads(status)["workers"] if status.startswith("{") else []
        return sorted(worker["device"] for worker in crew if worker["trial_number"] is not None)

    try:
        until(lambda: devices() == ["cuda:0", "cuda:1"], progress=launched.progress, every=3)
    finally:
        launched.send_all(signal.SIGINT)
        launched.finish(code=None)
