"""`segtune ensemble`: from a study's kept models to a folder that works wherever an export does."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Answer
from PIL import Image
from typer.testing import CliRunner

from search.cli import app
from search.database.store import open_store
from search.files.artifacts import Artifacts
from search.findings.manifest import check_export
from search.samples.receipts import write_receipts
from search.samples.streets import write_streets
from search.studies.looks import looks_of
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from search.studies.trial_facts import TrialFacts
from spaces.config import SegmentationConfig
from spaces.spec import StudySpec
from tests.fake_child import report
from tests.stores import small_study
from trainers.checkpoint import FOLD_MODELS, save_model
from trainers.dbnet.decode import Detections
from trainers.image_counts import ImageCounts
from trainers.members import read_members
from trainers.predict import Predictor
from trainers.tasks import load_data, make_task

TEXT = """\
name: small
task: text_detection
data:
  train: {{images: {data}/train/images, labels: {data}/train/labels}}
  val: {{images: {data}/val/images, labels: {data}/val/labels}}
space:
  train.epochs: 1
  train.precision: fp32
  model.encoder: resnet18
  model.encoder_weights: null
  model.decoder: [fpn, unet]
  model.inner: 8
  model.out: 8
  data.resolution: [160, 288]
  decode.thresh: {{low: 0.09, high: 0.11, step: 0.001, free: true}}
  decode.box_thresh: 0.02
use_default_space: false
use_starting_points: false
sampler: random
confirm: none
budget: {{trials: 4}}
"""


def check_files_of(folder: Path) -> dict[str, str]:
    """What its manifest lists, all of it whole."""
    assert check_export(folder) == []
    found: dict[str, str] = json.loads((folder / "manifest.json").read_text())["files"]
    return found


def run_examples(card: str) -> dict[str, Any]:
    """The names that a README's Python leaves."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    return names


Made = Callable[..., "Kept"]


@dataclass
class Kept:
    """A study whose trials have ended with weights that nobody has trained."""

    study: Study
    folder: Path

    def run(self, *words: str, code: int = 0) -> str:
        """What a command says."""
        url = self.study.store.engine.url.render_as_string(hide_password=False)
        env = {"SEGTUNE_STORE": url, "SEGTUNE_ARTIFACTS": str(self.folder / "artifacts")}
        answer: Answer = CliRunner().invoke(app, list(words), env=env)
        assert answer.exit_code == code, (answer.output, answer.exception)
        return answer.output

    def ensemble(self, *words: str, code: int = 0) -> str:
        return self.run("ensemble", "small", "--to", str(self.to), *words, code=code)

    @property
    def to(self) -> Path:
        return self.folder / "together"

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.to / "provenance.json").read_text())
        return found


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Made]:
    """Makes a study; each trial has random networks of its own, one or one for each fold."""
    with closing(open_store(f"sqlite:///{tmp_path / 'store.db'}")) as store:

        def make(text: str, seeds: Sequence[int], folds: int = 0) -> Kept:
            path = tmp_path / "study.yaml"
            path.write_text(text)
            spec = StudySpec.load(path)
            data = load_data(spec.data)
            study = create_or_resume(store, spec, data.fingerprint, None)
            artifacts = Artifacts(tmp_path / "artifacts")
            for number, seed in enumerate(seeds):
                claim = study.slots.claim(study.ask)
                assert claim is not None
                config = study.config(study.trial(number))
                workdir = artifacts.workdir(study, number)
                for fold in range(max(folds, 1)):
                    torch.manual_seed(10 * seed + fold)
                    task = make_task(config, (data.folds or [data])[fold], CPU, "fp32", {})
                    folder = workdir / FOLD_MODELS if folds else workdir
                    folder.mkdir(parents=True, exist_ok=True)
                    model = save_model(folder, 1, task.build_model(), COUNTS)
                    if folds:
                        model.rename(folder / f"fold-{fold + 1}")
                value = 0.5 - 0.01 * number
                shown = report(1, value, classes=8)
                assert study.report(claim, shown) is not None
                of_folds = {"folds": [value] * folds, "fold_epochs": [1] * folds} if folds else {}
                facts = TrialFacts(epochs=1, best_epoch=1, **of_folds).at_end()
                assert study.slots.end(claim, Result("COMPLETE", value, "completed", facts))
            return Kept(study, tmp_path)

        yield make


CPU = torch.device("cpu")
COUNTS = ImageCounts(np.ones((3, 8, 3), np.int64))


def streets(folder: Path, *, more: str = "", folds: int = 0) -> str:
    """A study over two architectures and two resolutions, with a test split or with folds."""
    data = write_streets(folder / "data", train=6, val=4, size=(40, 48))
    write_streets(folder / "more", train=0, val=4, size=(40, 48), seed=1)
    shutil.move(folder / "more" / "val", data / "test")
    text = small_study(data, name="small", trials=4)
    val = f"  val: {{images: {data}/val/images, masks: {data}/val/masks}}\n"
    test = f"  test: {{images: {data}/test/images, masks: {data}/test/masks}}\n"
    text = text.replace(val, f"  folds: {{count: {folds}}}\n" if folds else val + test)
    text = text.replace("data.resolution: 32x32", "data.resolution: [32x32, 48x64]")
    return text.replace("model.arch: Unet", "model.arch: [Unet, FPN]") + more


def test_an_ensemble_works_wherever_an_export_does(kept: Made, tmp_path: Path) -> None:
    found = kept(streets(tmp_path, more="ensemble: {size: 2}\n"), [8, 9, 10, 11])
    assert found.study.spec.keep_models == 4
    said = found.ensemble()
    facts = found.facts
    assert facts["ensemble"]["candidates"] == [0, 1, 2, 3] and len(facts["ensemble"]["draws"]) == 2
    assert f"{facts['value']:.4f} on val" in said and "val has chosen the models" in said
    assert "drawn, one after another" in said and "ms an image" in said
    one, both = str(tmp_path / "one"), str(found.to)
    found.run("export", "small", "--trial", str(facts["trial"]), "--to", one)
    said = found.run("evaluate", both, "--against", one)
    assert f"val mIoU {facts['value']:.6f}" in said
    gain = facts["ensemble"]["gain"]
    assert f"has {gain['mean']:+.6f}" in said
    assert f"{gain['mean'] - gain['half_width']:+.4f} to" in said
    assert f"has {-gain['mean']:+.6f}" in found.run("evaluate", one, "--against", both)
    found.run("evaluate", both, "--data", "test")
    [look] = looks_of(found.study)
    assert look.score.trial == facts["trial"] and look.score.val is None
    assert look.score.settings[0].endswith("in an ensemble")
    assert look.score.model_sha256 == facts["model_sha256"]
    images = str(tmp_path / "data" / "val" / "images")
    assert "4 images in" in found.run("predict", both, images, "--to", str(tmp_path / "out"))
    assert "4 were there already" in found.run(
        "predict", both, images, "--to", str(tmp_path / "out")
    )
    model = next(found.to.rglob("model.safetensors"))
    model.write_bytes(model.read_bytes()[:-1] + b"\1")
    assert "damaged" in found.run("evaluate", both, code=2)


def test_its_readme_and_those_of_its_members(
    kept: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members' examples run as they stand; made one as the README says, they give its mask."""
    found = kept(streets(tmp_path, more="ensemble: {size: 3}\n"), [8, 9, 10, 11])
    found.ensemble()
    facts, members = found.facts, read_members(found.to, SegmentationConfig())
    card = (found.to / "README.md").read_text()
    gain = facts["ensemble"]["gain"]["mean"]
    assert card.startswith("# small, an ensemble\n")
    assert f"mIoU {facts['value']:.4f}; over the model of trial {facts['trial']} alone" in card
    assert f"{gain:+.4f}" in card and "Val has chosen the members, so this says too much" in card
    assert "`segtune evaluate . --data test`" in card and "| index | class | colour" in card
    picture = next((tmp_path / "data" / "test" / "images").iterdir())
    mean: Any = 0
    for member in members:
        row = f"| `members/{member.folder.name}/` | {member.config.flat()['model.arch']} with enc"
        assert (
            row in card and f"| 1 | {member.draws} of {len(facts['ensemble']['steps'])} |" in card
        )
        shutil.copy(picture, member.folder / "image.png")
        monkeypatch.chdir(member.folder)
        names = run_examples((member.folder / "README.md").read_text())
        assert np.array_equal(names["found"], names["mask"])
        mean = mean + names["logits"].softmax(1) * member.draws
    shutil.copy(picture, found.to / "image.png")
    monkeypatch.chdir(found.to)
    names = run_examples(card)
    assert (mean.argmax(1)[0].numpy() == names["found"]).mean() > 0.999  # equal ones rounded apart
    assert len(names["models"]) == len(members)
    for path in [*found.to.rglob("*.md"), *found.to.rglob("*.json")]:
        assert "mit" not in re.findall(r"[a-z]+", path.read_text().lower()), path
    assert not list(found.to.rglob("model/README.md"))


def test_with_onnx(kept: Made, tmp_path: Path) -> None:
    found = kept(streets(tmp_path), [8, 9, 10, 11])
    said = found.ensemble("--onnx", "--size", "2")
    facts = found.facts
    assert len(facts["onnx"]) == 2
    card, listed = (found.to / "README.md").read_text(), check_files_of(found.to)
    for trial, one in zip(facts["ensemble"]["draws"], facts["onnx"], strict=True):
        assert abs(one["score"] - one["torch_score"]) <= 1e-3 < one["torch_score"]
        assert f"model.onnx of trial {trial} has mIoU {one['score']:.4f} on val" in said
        file = f"members/trial-{trial}/model/model.onnx"
        assert f"{file} has mIoU {one['score']:.4f} on val" in card and file in listed
        assert (
            "steps 3 to 5 are inside" in (found.to / f"members/trial-{trial}/README.md").read_text()
        )
    images, out = tmp_path / "data" / "val" / "images", tmp_path / "out"
    for runtime in ("torch", "onnx"):
        words = ("--to", str(out / runtime), "--runtime", runtime)
        assert "4 images in" in found.run("predict", str(found.to), str(images), *words)
    masks = [sorted((out / runtime / "masks").iterdir()) for runtime in ("torch", "onnx")]
    for one, other in zip(*masks, strict=True):
        with Image.open(one) as mine, Image.open(other) as theirs:
            assert (np.array(mine) == np.array(theirs)).mean() > 0.999  # equal ones rounded apart


def test_one_model_may_be_all_that_helps(kept: Made, tmp_path: Path) -> None:
    """Of equal models no second one gains: nothing is written."""
    text = streets(tmp_path).replace("[32x32, 48x64]", "32x32").replace("[Unet, FPN]", "Unet")
    found = kept(text, [1, 1])
    assert "no other model makes trial 0 better: nothing is written" in found.ensemble(code=1)
    assert not found.to.exists()


def test_text_maps_of_two_sizes(kept: Made, tmp_path: Path) -> None:
    data = write_receipts(tmp_path / "data", train=2, val=3, size=(288, 180))
    found = kept(TEXT.format(data=data), [6, 7, 8])
    said = found.ensemble("--size", "3")
    facts = found.facts
    assert f"{facts['value']:.4f} on val" in said
    assert f"val Hmean {facts['value']:.6f}" in found.run("evaluate", str(found.to))
    page = next((data / "val" / "images").iterdir())
    [boxes] = Predictor(found.to).predict([page])
    assert isinstance(boxes, Detections) and len(boxes.boxes) > 0
    card = (found.to / "README.md").read_text()
    assert "DBNet.from_pretrained" in card and "resized to the largest of them" in card


def test_members_are_all_folds_of_a_trial(kept: Made, tmp_path: Path) -> None:
    found = kept(streets(tmp_path, folds=2), [0, 1, 2, 3], folds=2)
    assert "take them with --from-folds" in found.ensemble(code=2)
    said = found.ensemble("--from-folds", "--size", "3")
    facts = found.facts
    assert len(facts["folds"]) == 2 and np.mean(facts["folds"]) == pytest.approx(facts["value"])
    assert f"{facts['value']:.4f} on val" in said
    assert f"{facts['value']:.6f}, the mean of 2 folds" in found.run("evaluate", str(found.to))
    [mask] = Predictor(found.to).predict([next((tmp_path / "data/train/images").iterdir())])
    assert not isinstance(mask, Detections) and mask.shape == (40, 48)


def test_what_cannot_be_is_said(kept: Made, tmp_path: Path) -> None:
    found = kept(streets(tmp_path), [0])
    assert "needs two models or more, but of study small there is one" in found.ensemble(code=2)
    assert "--from-folds: study small has no data.folds" in found.ensemble("--from-folds", code=2)
    assert "greater than or equal to 1" in found.ensemble("--size", "0", code=2)
    shutil.rmtree(tmp_path / "artifacts")
    assert "there are none here" in found.ensemble(code=2)
    found.to.mkdir()
    (found.to / "mine.txt").write_text("mine")
    assert "holds other files" in found.ensemble(code=2)
