"""Folds: how images are divided, what all folds share, and a trial over all of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from search.samples.streets import CLASSES, write_streets
from spaces.config import SegmentationConfig
from spaces.data import FoldsSpec, SegmentationDataSpec
from spaces.errors import InputError
from spaces.space import Free
from trainers import data as data_module
from trainers import folds
from trainers.cache import decode, load_arrays
from trainers.checkpoint import (
    FOLD_MODELS,
    fold_models,
    load_model,
    remove_last,
    weights_digest,
)
from trainers.data import Sample, SegmentationData, divide_folds
from trainers.durable import Damaged, write_json
from trainers.folds import train_trial
from trainers.image_counts import FILE, ImageCounts
from trainers.report import EpochReport
from trainers.tasks import check_metric, evaluate, load_data
from trainers.train import TrialResult

COUNT, EPOCHS = 3, 2


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataSpec:
    """9 drawn images of 40 x 48 in 3 folds; one class, so that each fold has a threshold."""
    folder = write_streets(tmp_path_factory.mktemp("streets"), train=9, val=0, size=(40, 48))
    for path in (folder / "train" / "masks").iterdir():
        mask = np.asarray(Image.open(path)) == CLASSES.index("road")
        Image.fromarray(mask.astype(np.uint8)).save(path)
    train = {kind: f"{folder}/train/{kind}" for kind in ("images", "masks")}
    return SegmentationDataSpec.model_validate(
        {"train": train, "folds": {"count": COUNT}, "classes": ["road"]}
    )


@pytest.fixture
def data(spec: SegmentationDataSpec) -> SegmentationData:
    found = load_data(spec)
    assert isinstance(found, SegmentationData)
    return found


def with_seed(spec: SegmentationDataSpec, seed: int) -> SegmentationDataSpec:
    return spec.model_copy(update={"folds": FoldsSpec(count=COUNT, seed=seed)})


# ---------------------------------------------------------------- dividing


def samples(stems: str) -> list[Sample]:
    return [Sample(f"/{stem}.png", f"/{stem}_m.png") for stem in stems.split()]


def divided(given: list[Sample], spec: FoldsSpec) -> list[list[str]]:
    parts = divide_folds(given, spec, {sample.image: sample.image for sample in given})
    return [[sample.stem for sample in part] for part in parts]


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_every_image_is_in_one_fold_and_folds_are_as_equal_as_can_be(count: int) -> None:
    given = samples(" ".join(f"i{n:02d}" for n in range(23)))
    parts = divided(given, FoldsSpec(count=count))
    assert sorted(stem for part in parts for stem in part) == [s.stem for s in given]
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert parts == divided(given[::-1], FoldsSpec(count=count)), "the seed alone decides"
    assert parts != divided(given, FoldsSpec(count=count, seed=1))


def test_groups_stay_whole_and_the_largest_is_placed_first() -> None:
    given = samples("a_1 a_2 a_3 a_4 b_1 b_2 c_1 c_2 d_1 e_1")
    parts = divided(given, FoldsSpec(count=3, group="^([^_]+)_"))
    of_group = Counter(group for part in parts for group in {stem[0] for stem in part})
    assert set(of_group.values()) == {1}
    assert sorted(len(part) for part in parts) == [3, 3, 4]


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(InputError, match=r"data\.folds\.count: 3 folds .* 4 images are in 2 group"):
        divided(samples("a_1 a_2 b_1 b_2"), FoldsSpec(count=3, group="^([^_]+)_"))


def test_one_image_in_two_folds_is_refused() -> None:
    given = samples("a b c d")
    with pytest.raises(InputError, match=r"is the same image as .*\(fold 1\)"):
        divide_folds(given, FoldsSpec(count=2), {sample.image: "same" for sample in given})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"folds": None}, "val: is missing; give a split"),
        ({"val": {"fraction": 0.2}}, "folds: every image of train is validated on in its fold"),
        ({"folds": {"count": 1}}, "greater than or equal to 2"),
    ],
)
def test_val_or_folds(spec: SegmentationDataSpec, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SegmentationDataSpec.model_validate(spec.model_dump() | change)


# ---------------------------------------------------------------- data and cache


def test_a_fold_is_an_ordinary_data_set_of_the_same_pixels(data: SegmentationData) -> None:
    whole = {sample.image for sample in data.split("train")}
    seen: list[str] = []
    for number, fold in enumerate(data.folds, 1):
        train, val = ({s.image for s in fold.split(name)} for name in ("train", "val"))
        assert not train & val and train | val == whole and fold.fold == number
        assert np.add(fold.counts, fold.val_counts).tolist() == data.counts
        seen += val
    assert sorted(seen) == sorted(whole) and len(data.folds) == COUNT
    assert data.val_counts == data.counts and data.split("val") == data.split("train")
    assert len({fold.fingerprint for fold in data.folds}) == COUNT


def test_files_are_read_once_for_all_ways_to_divide(
    spec: SegmentationDataSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = data_module._check_sample

    def count(sample: Sample, spec: SegmentationDataSpec) -> Any:
        read.append(sample.image)
        return original(sample, spec)

    monkeypatch.setattr(data_module, "_check_sample", count)
    found = [load_data(with_seed(spec, seed)) for seed in (0, 1, 0)]
    assert len(read) == len(set(read)) == 9
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].folds[0].splits == found[2].folds[0].splits != found[1].folds[0].splits


def test_all_folds_share_one_cache_entry_and_see_their_own_images(
    spec: SegmentationDataSpec, built: list[str]
) -> None:
    for seed in (0, 1):  # a confirmation divides anew
        for fold in load_data(with_seed(spec, seed)).folds:
            assert isinstance(fold, SegmentationData)
            for split in ("val", "train"):
                arrays = load_arrays(fold, split, (24, 32))
                assert arrays is not None and len(arrays) == len(fold.split(split))
                images, masks = arrays.chosen()
                for row, sample in enumerate(fold.split(split)):
                    image, mask, as_it_is = decode(sample, fold.spec, (24, 32))
                    assert (images[row] == image).all() and (masks[row] == mask).all()
                    if split == "val":
                        assert (arrays.originals[row] == as_it_is).all()
                assert bool(arrays.originals) is (split == "val")
    assert built == ["folds"]


def test_a_fold_that_cannot_be_scored_or_learnt_is_refused(data: SegmentationData) -> None:
    metric = SegmentationConfig().metric
    check_metric(metric, data)
    first, *rest = data.folds
    empty = replace(first, val_counts=[first.val_counts[0], 0])
    with pytest.raises(InputError, match=r"data\.folds, fold 1: val has no pixel of a class that"):
        check_metric(metric, replace(data, folds=(empty, *rest)))
    unlearnt = replace(first, counts=[first.counts[0], 0])
    with pytest.raises(InputError, match=r"data\.folds, fold 1: of these classes val has pixels"):
        check_metric(metric, replace(data, folds=(unlearnt, *rest)))


# ---------------------------------------------------------------- a trial


def small(**changes: Any) -> SegmentationConfig:
    settings = {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "32x32",
        "train.epochs": EPOCHS,
        "train.batch_size": 2,
        "train.precision": "fp32",
        "train.patience": 0,
        "loss.pixel": "bce",
        "loss.warmup_epochs": 1,
        "loss.ramp_epochs": 1,
        "optim.encoder_lr_ratio": 1.0,
        "health.grad_norm": 0,
        "health.trivial": 0,
    }
    return SegmentationConfig().replace({**settings, **changes})


class Recording:
    """What a trial has said."""

    def __init__(self) -> None:
        self.reports: list[EpochReport] = []
        self.folds: list[float] = []
        self.repeated: list[int] = []  # reports before each word that all has been repeated

    def train(
        self,
        data: SegmentationData,
        workdir: Path,
        should_stop: Callable[[], str | None] = lambda: None,
        **changes: Any,
    ) -> TrialResult:
        free = {"decode.threshold": Free(0.1, 0.9, 0.1)}
        return train_trial(
            small(**changes),
            data,
            workdir,
            self.reports.append,
            should_stop,
            free,
            self.folds.append,
            lambda: self.repeated.append(len(self.reports)),
        )

    @property
    def curve(self) -> list[tuple[int, int | None, float]]:
        return [(report.epoch, report.fold, report.metric) for report in self.reports]


@pytest.mark.slow
def test_a_trial_trains_each_fold_and_is_worth_their_mean(
    data: SegmentationData, tmp_path: Path
) -> None:
    said = Recording()
    result = said.train(data, tmp_path / "trial")
    assert [report.epoch for report in said.reports] == list(range(1, COUNT * EPOCHS + 1))
    assert [report.fold for report in said.reports] == [1, 1, 2, 2, 3, 3]
    bests = [max(r.metric for r in said.reports if r.fold == fold) for fold in (1, 2, 3)]
    assert [fold.value for fold in result.folds] == said.folds == bests
    assert result.value == fmean(bests) and result.reason == "completed"
    chosen = [fold.decode["decode.threshold"] for fold in result.folds]
    assert result.decode == {"decode.threshold": median_low(chosen)}
    assert result.model is not None and result.model.name == FOLD_MODELS
    whole = ImageCounts.from_bytes((result.model / FILE).read_bytes()).counts
    order = [sample.image for sample in data.split("train")]
    for fold, one, model in zip(data.folds, result.folds, fold_models(result.model), strict=True):
        rows = [order.index(sample.image) for sample in fold.split("val")]
        counts = ImageCounts.from_bytes((model / FILE).read_bytes()).counts
        assert (whole[rows] == counts).all()
        config = small().replace(one.decode)
        again = evaluate(model, config, fold, "val", tmp_path / "pictures")  # type: ignore[arg-type]
        assert again.scores.metric == pytest.approx(one.value, abs=1e-6)
    remove_last(tmp_path / "trial")
    assert [path.name for path in (tmp_path / "trial").iterdir()] == [FOLD_MODELS]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 6, 9])  # within fold 1, at its end, and within fold 2
def test_a_resumed_trial_is_the_uninterrupted_one(
    data: SegmentationData, tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, first, second = Recording(), Recording(), Recording()
    expected = whole.train(data, tmp_path / "whole")
    left = iter(range(steps))
    stopped = first.train(
        data, tmp_path / "trial", lambda: None if next(left, None) is not None else "preempted"
    )
    assert stopped.reason == "preempted" and len(stopped.folds) == len(first.folds) == steps // 6
    trained: list[Path] = []
    original = folds.train
    monkeypatch.setattr(folds, "train", lambda *a: trained.append(a[2]) or original(*a))
    resumed = second.train(data, tmp_path / "trial")
    assert [path.name for path in trained] == [f"fold-{n}" for n in range(1 + steps // 6, 4)]
    assert second.curve == whole.curve and second.folds == whole.folds
    assert second.repeated == [len(first.reports)]
    assert resumed.value == expected.value and resumed.decode == expected.decode
    assert resumed.model is not None and expected.model is not None
    assert (resumed.model / FILE).read_bytes() == (expected.model / FILE).read_bytes()
    for one, other in zip(fold_models(resumed.model), fold_models(expected.model), strict=True):
        weights = load_model(other).state_dict()
        assert all((v == weights[name]).all() for name, v in load_model(one).state_dict().items())
    assert weights_digest(resumed.model) == weights_digest(expected.model)


@pytest.mark.slow
def test_a_kill_between_a_folds_weights_and_its_result_loses_nothing(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, said = Recording(), Recording()
    expected = whole.train(data, tmp_path / "whole")

    def killed_at_result(path: Path, facts: Any) -> None:
        if path.name == folds.RESULT:
            raise SystemExit
        write_json(path, facts)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(folds, "write_json", killed_at_result)
        Recording().train(data, tmp_path / "trial")
    result = said.train(data, tmp_path / "trial")
    assert said.curve == whole.curve and result.value == expected.value
    assert result.model is not None and expected.model is not None
    assert weights_digest(result.model) == weights_digest(expected.model)


@pytest.mark.slow
def test_an_alarm_in_a_fold_ends_the_trial(data: SegmentationData, tmp_path: Path) -> None:
    said = Recording()
    result = said.train(data, tmp_path, **{"health.trivial": 0.99})
    assert result.reason == "health:trivial"
    assert len(result.folds) == len(said.folds) == 1 and {r.fold for r in said.reports} == {1}


@pytest.mark.slow
def test_the_result_of_other_data_or_another_config_is_refused(
    spec: SegmentationDataSpec, data: SegmentationData, tmp_path: Path
) -> None:
    left = iter(range(7))
    Recording().train(data, tmp_path, lambda: None if next(left, None) is not None else "preempted")
    with pytest.raises(InputError, match=r"result\.json is the checkpoint of another config"):
        Recording().train(data, tmp_path, **{"optim.lr": 0.5})
    other = load_data(with_seed(spec, 1))
    assert isinstance(other, SegmentationData)
    with pytest.raises(InputError, match=r"result\.json: the data have changed"):
        Recording().train(other, tmp_path)
    result = tmp_path / "fold-1" / folds.RESULT
    assert json.loads(result.read_text())["reason"] == "completed"


@pytest.mark.slow
def test_damage_to_a_fold_that_has_ended_is_said_and_it_begins_anew(
    data: SegmentationData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, left = tmp_path / "whole", iter(range(7))
    Recording().train(data, whole, lambda: None if next(left, None) is not None else "preempted")
    epoch, paths = folds.checkpoint_files(whole, check=True)
    assert epoch == EPOCHS and {str(path.relative_to(whole)).split("/")[0] for path in paths} == {
        *("last.json", "fold-1", "model-folds")
    }
    config = small()
    for name in ("model-folds/fold-1/model.safetensors", "fold-1/result.json"):
        workdir = shutil.copytree(whole, tmp_path / name.replace("/", "-"))
        assert folds._ended(workdir, 1, config, data.folds[0]) is not None
        content = (workdir / name).read_bytes()
        (workdir / name).write_bytes(content[:-9] + b"x" + content[-8:])
        with pytest.raises(Damaged, match=name):
            folds.checkpoint_files(workdir, check=True)
        assert folds._ended(workdir, 1, config, data.folds[0]) is None
        assert f"{name} is damaged" in capsys.readouterr().out
        assert not (workdir / "fold-1" / folds.RESULT).exists()
        assert not (workdir / "model-folds" / "fold-1").exists()
