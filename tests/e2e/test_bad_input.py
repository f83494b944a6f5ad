"""Bad input, one table: each case has a message of its own and exit code 2, and changes nothing.

A message says what was given, what must hold, and the nearest fix; with file and line where there
is one. No trial begins, no study appears in the store, and no file is written, changed or lost.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pytest
from PIL import Image
from typer.testing import CliRunner

from search.cli import app
from search.database.migrations import SCHEMA_VERSION
from search.database.store import open_store
from search.files.artifacts import open_artifacts
from search.findings.manifest import write_manifest
from search.samples.receipts import write_receipts
from search.samples.streets import write_streets
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from spaces.config import SegmentationConfig
from spaces.run_config import dump_run_config
from spaces.spec import StudySpec
from spaces.text_detection import TextDetectionConfig
from trainers.tasks import load_data

STUDY = """\
name: small
task: segmentation
data:
  train: {images: data/train/images, masks: data/train/masks}
  val: {images: data/val/images, masks: data/val/masks}
  classes: data/classes.json
  # data: line 7
space:
  optim.lr: {low: 1e-4, high: 1e-2, log: true}
  train.epochs: 1
  train.batch_size: 4
  data.resolution: 32x32
  model.arch: Unet
  model.encoder: resnet18
  model.encoder_weights: null
  # space: line 16
budget: {trials: 2}
sampler: {name: random}
pruner: none
"""

TEXT_STUDY = """\
name: words
task: text_detection
data:
  train: {images: pages/train/images, labels: pages/train/labels}
  val: {images: pages/val/images, labels: pages/val/labels}
space:
  train.epochs: 1
  data.resolution: 64
  model.encoder: resnet18
  model.encoder_weights: null
  # space: line 11
budget: {trials: 2}
"""

LABEL = "pages/val/labels/gt_receipt_0000.txt"
IMAGE = "data/train/images/street_0001.png"
MASK = "data/train/masks/street_0001.png"
PAIR = f"{IMAGE} {MASK}\n"
SECRET = "s3cret"


@dataclass(frozen=True)
class Place:
    """The folder that a case runs in, where `segtune launch study.yaml` would succeed."""

    folder: Path
    patch: pytest.MonkeyPatch
    request: pytest.FixtureRequest

    @property
    def server(self) -> Any:
        """A Postgres server that asks for a password."""
        return self.request.getfixturevalue("tcp_postgres")

    def command(self, run: str) -> list[str]:
        """The words of a command line, with the ports of this session."""
        return self.with_ports(run).split()

    def with_ports(self, run: str) -> str:
        if "{server}" in run:
            run = run.replace("{server}", f"{self.server.host}:{self.server.port}")
        if "{closed}" in run:
            run = run.replace("{closed}", str(self.request.getfixturevalue("closed_port")))
        return run

    def spec(self) -> StudySpec:
        return StudySpec.load(self.folder / "study.yaml")

    @contextlib.contextmanager
    def launched(self) -> Iterator[Study]:
        """The study as it is after `segtune launch` and before its first trial."""
        store = open_store()
        spec = self.spec()
        yield create_or_resume(store, spec, load_data(spec.data).fingerprint, None)
        store.close()

    def contents(self) -> dict[str, Any]:
        """Everything that bad input must leave as it is: all files, and the rows of the store."""
        found: dict[str, Any] = {
            str(path): path.read_bytes() if path.is_file() else "folder"
            for path in self.folder.rglob("*")
            if not path.name.startswith("store.db")
        }
        with contextlib.closing(sqlite3.connect(self.folder / "store.db")) as connection:
            for table in ("studies", "trials", "segtune_study", "segtune_slot"):
                found[table] = connection.execute(f"SELECT * FROM {table}").fetchall()
        return found


Change = Callable[[Place], None]


@dataclass(frozen=True)
class Bad:
    """One case: how to make it, the part of the message that is its own, and the command."""

    id: str
    change: Change
    says: str
    run: str = "launch study.yaml"


# ---------------------------------------------------------------- how to make a bad input


def nothing(place: Place) -> None:
    """All is as it should be; the command is what is wrong."""


def both(*changes: Change) -> Change:
    def change(place: Place) -> None:
        for each in changes:
            each(place)

    return change


def edit(old: str, new: str, file: str = "study.yaml") -> Change:
    """Put `new` for `old`, which stands once in the file."""

    def change(place: Place) -> None:
        path = place.folder / file
        text = path.read_text()
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new))

    return change


def line(new: str) -> Change:
    """Put `key: value` for the line of study.yaml that has the key."""
    found = re.search(rf"^( *){re.escape(new.partition(':')[0])}:.*$", STUDY, re.MULTILINE)
    assert found, new
    return edit(found[0], found[1] + new)


def section(name: str, new: str) -> Change:
    """Put `new` for a whole section of study.yaml."""
    found = re.search(rf"^{name}:\n(  .*\n)+", STUDY, re.MULTILINE)
    assert found, name
    return edit(found[0], new)


def data(entry: str) -> Change:
    return edit("# data: line 7", entry)


def folds(entry: str) -> Change:
    """Folds in place of val, in line 5."""
    return edit("val: {images: data/val/images, masks: data/val/masks}", f"folds: {entry}")


def nine_classes(place: Place) -> None:
    """A ninth class, which no mask has."""
    line("classes: [sky, building, road, pavement, tree, car, pole, person, tram]")(place)
    data("ignore_index: 255")(place)


def space(entry: str, *more: str) -> Change:
    return edit("# space: line 16", "\n  ".join((entry, *more)))


def text_space(entry: str) -> Change:
    return edit("# space: line 11", entry, "words.yaml")


def text_exported(place: Place) -> None:
    """What `segtune export` writes for text detection, with weights that are none."""
    spec = StudySpec.load(place.folder / "words.yaml")
    write("best/config.yaml", dump_run_config(spec.data, TextDetectionConfig()))(place)
    write("best/model/config.json", "{}")(place)
    write("best/model/model.safetensors", "")(place)


def write(path: str, content: str | bytes) -> Change:
    def change(place: Place) -> None:
        target = place.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def remove(path: str) -> Change:
    return lambda place: (place.folder / path).unlink()


def link(path: str, target: str) -> Change:
    return both(remove(path), lambda place: (place.folder / path).symlink_to(target))


def pipe(path: str) -> Change:
    return both(remove(path), lambda place: os.mkfifo(place.folder / path))


def empty(path: str) -> Change:
    def change(place: Place) -> None:
        for file in (place.folder / path).iterdir():
            file.unlink()

    return change


def copy(source: str, target: str) -> Change:
    def change(place: Place) -> None:
        shutil.copy(place.folder / source, place.folder / target)

    return change


def draw(path: str, pixels: Any) -> Change:
    return lambda place: Image.fromarray(np.asarray(pixels, np.uint8)).save(place.folder / path)


def halve(path: str) -> Change:
    """Keep the first half of a file, as a broken download does."""

    def change(place: Place) -> None:
        whole = (place.folder / path).read_bytes()
        (place.folder / path).write_bytes(whole[: len(whole) // 2])

    return change


def to_jpeg(place: Place) -> None:
    source = place.folder / IMAGE
    Image.open(source).save(source.with_suffix(".jpg"))
    source.unlink()


def claim_side(side: int) -> Change:
    """Let the header of a small PNG claim side x side pixels."""

    def change(place: Place) -> None:
        png = bytearray((place.folder / IMAGE).read_bytes())
        png[16:24] = struct.pack(">II", side, side)
        png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
        (place.folder / IMAGE).write_bytes(png)

    return change


def launched(place: Place) -> None:
    with place.launched():
        pass


def finished(place: Place) -> None:
    """A study with one trial that has ended, whose weights are not here."""
    with place.launched() as study:
        claim = study.slots.claim(study.ask)
        assert claim
        study.slots.end(claim, Result("COMPLETE", 0.5, "completed", {"best_epoch": 1}))


def tested(place: Place) -> None:
    """The same with a test split of one image, and with weights, though they are none."""
    data("test: {images: data/test/images, masks: data/test/masks}")(place)
    for kind in ("images", "masks"):
        (place.folder / "data" / "test" / kind).mkdir(parents=True)
    draw("data/test/images/a.png", np.full((40, 48, 3), 90))(place)
    draw("data/test/masks/a.png", np.ones((40, 48)))(place)
    finished(place)
    with place.launched() as study:
        model = open_artifacts(None).workdir(study, 0) / "model-1" / "model.safetensors"
        write(str(model), "")(place)


def exported(place: Place) -> None:
    """What `segtune export --to best` writes, without weights."""
    config = dump_run_config(place.spec().data, SegmentationConfig())
    write("best/config.yaml", config)(place)


def with_weights(place: Place) -> None:
    exported(place)
    write("best/model/config.json", "{}")(place)
    write("best/model/model.safetensors", "")(place)


def manifested(place: Place) -> None:
    with_weights(place)
    write_manifest(place.folder / "best")


def env(name: str, value: str) -> Change:
    return lambda place: place.patch.setenv(name, value)


def store(url: str) -> Change:
    """The environment names this store, with the ports of this session."""
    return lambda place: place.patch.setenv("SEGTUNE_STORE", place.with_ports(url))


def offline(place: Place) -> None:
    """No network, and nothing of Hugging Face on disk."""
    place.patch.setenv("HF_HUB_OFFLINE", "1")  # for a new process
    place.patch.setenv("HF_HOME", str(place.folder.parent / "hub"))
    place.patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # for this one
    place.patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place.folder.parent / "hub"))


def guest(place: Place) -> None:
    """A user of the server who may not make tables."""
    with contextlib.closing(psycopg2.connect(place.server.url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("DROP ROLE IF EXISTS guest")
        cursor.execute(f"CREATE ROLE guest LOGIN PASSWORD '{SECRET}'")


def sql(statement: str) -> Change:
    def change(place: Place) -> None:
        with contextlib.closing(sqlite3.connect(place.folder / "store.db")) as connection:
            connection.execute(statement)
            connection.commit()

    return change


# ---------------------------------------------------------------- the table

# fmt: off
CASES = [
    # the file
    Bad("no-file", remove("study.yaml"), "study.yaml: no such file"),
    Bad("folder", nothing, "data is a folder, but a YAML file is needed", "launch data"),
    Bad("name-of-300", nothing, "cannot be read: File name too long", f"launch {'x' * 300}"),
    Bad("empty", write("study.yaml", ""), "study.yaml: the file is empty"),
    Bad("one-word", write("study.yaml", "hello"), "study.yaml: the file is not a mapping"),
    Bad("too-big", write("study.yaml", "#" * 1_000_001), "it has more than 1000000 bytes"),
    Bad("not-utf8", write("study.yaml", STUDY.replace("small", "sm\xe4ll").encode("latin-1")),
        "study.yaml line 1: not UTF-8 text; save the file as UTF-8"),
    Bad("not-yaml", edit("{trials: 2}", "{trials: 2"),
        "study.yaml line 18: not valid YAML: while parsing a flow mapping (line 17), expected ','"),
    Bad("tab", edit("  train.epochs", "\ttrain.epochs"),
        "study.yaml line 10: not valid YAML: found character '\\t' that cannot start any token; "
        "indent with spaces"),
    Bad("two-documents", line("pruner: none\n---\nname: b"),
        "study.yaml line 20: not valid YAML: expected a single document in the stream"),
    Bad("alias-unknown", line("budget: {trials: *many}"),
        "study.yaml line 17: not valid YAML: found undefined alias 'many'"),
    Bad("alias-of-itself", line("budget: {trials: &a [*a]}"),
        "study.yaml line 17: more than 50 levels; does an alias hold itself?"),
    Bad("too-deep", line(f"budget: {'[' * 2000}{']' * 2000}"), "nested too deep"),
    Bad("python-tag", line("budget: {trials: !!python/object/apply:os.getcwd []}"),
        "study.yaml line 17: the tag !!python/object/apply:os.getcwd is refused"),
    # keys
    Bad("key-unknown", line("pruner: none\ncolour: red"),
        "colour: unknown key (study.yaml line 20)"),
    Bad("key-twice", line("pruner: none\nname: b"),
        "study.yaml line 20: the key name stands twice (first on line 1); keep one"),
    Bad("key-twice-space", space("train.epochs: 2"),
        "study.yaml line 16: the key train.epochs stands twice (first on line 10); keep one"),
    Bad("key-misspelt", edit("pruner:", "prunner:"),
        "prunner: unknown key; did you mean pruner? (study.yaml line 19)"),
    Bad("key-of-space-at-top", line("pruner: none\nlearning_rate: 0.1"),
        "learning_rate: unknown key; did you mean optim.lr, under `space:`? (study.yaml line 20)"),
    Bad("key-misspelt-data", data("ignore_indx: 255"),
        "data.ignore_indx: unknown key; did you mean ignore_index? (study.yaml line 7)"),
    Bad("key-misspelt-split", edit("val: {images", "val: {image"),
        "data.val.image: unknown key; did you mean images? (study.yaml line 5)"),
    Bad("key-misspelt-space", space("optim.learning_rate: 0.1"),
        "optim.learning_rate: unknown parameter; did you mean optim.lr? (study.yaml line 16)"),
    Bad("key-nested-space", space("optim: {momentum: 0.5}"),
        "optim: unknown parameter; write optim.momentum as one key (study.yaml line 16)"),
    Bad("key-misspelt-range", space("optim.momentum: {low: 0.1, hihg: 0.9}"),
        "optim.momentum: unknown key hihg; did you mean high? (study.yaml line 16)"),
    Bad("key-misspelt-when", space("optim.momentum: {low: 0, high: 0.9, when: {optim.nam: sgd}}"),
        "optim.momentum: when: unknown parameter optim.nam; did you mean optim.name?"),
    Bad("key-misspelt-budget", line("budget: {trails: 2}"),
        "budget.trails: unknown key; did you mean trials? (study.yaml line 17)"),
    Bad("key-misspelt-sampler", line("sampler: {name: tpe, startup: 3}"),
        "sampler.startup: unknown key; did you mean startup_trials? (study.yaml line 18)"),
    Bad("key-missing", edit("name: small\n", ""), "name: is missing (study.yaml)"),
    Bad("section-missing", section("data", ""), "data: is missing (study.yaml)"),
    Bad("section-as-list", section("space", "space: [optim.lr]\n"),
        "space: must hold `key: value` lines, but got ['optim.lr'] (study.yaml line 8)"),
    Bad("section-as-number", line("budget: 2"),
        "budget: must hold `key: value` lines, but got 2; known keys: trials, hours, "
        "gpu_hours, trial_hours, until, max_attempts (study.yaml line 17)"),
    # name, task, budget, sampler, pruner
    Bad("name-empty", line("name: ''"),
        "name: must be 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit, "
        "but got '' (study.yaml line 1)"),
    Bad("name-null", line("name:"), "name: must be text, but got null (study.yaml line 1)"),
    Bad("name-slash", line("name: a/b"), "or digit, but got 'a/b' (study.yaml line 1)"),
    Bad("name-of-200", line(f"name: {'x' * 200}"), "xxx... (200 characters)' (study.yaml line 1)"),
    Bad("task", line("task: segmentatoin"),
        "task: must be segmentation or text_detection, but got 'segmentatoin'; did you mean "
        "segmentation? (study.yaml line 2)"),
    Bad("trials-0", line("budget: {trials: 0}"),
        "budget.trials: must be greater than or equal to 1, but got 0 (study.yaml line 17)"),
    Bad("trials-negative", line("budget: {trials: -3}"),
        "budget.trials: must be greater than or equal to 1, but got -3 (study.yaml line 17)"),
    Bad("trials-fraction", line("budget: {trials: 2.5}"),
        "budget.trials: must be a whole number, but got 2.5 (study.yaml line 17)"),
    Bad("trials-true", line("budget: {trials: true}"),
        "budget.trials: must be a number, but got true (study.yaml line 17)"),
    Bad("trials-of-5000-digits", line(f"budget: {{trials: {'9' * 5000}}}"),
        "study.yaml line 17: a number of 5000 digits"),
    Bad("trials-option-0", nothing, "Invalid value for '--trials'", "launch study.yaml --trials 0"),
    Bad("sampler", line("sampler: tpee"),
        "'gp', 'cmaes' or 'qmc', but got 'tpee'; did you mean tpe? (study.yaml line 18)"),
    Bad("pruner", line("pruner: meidan"),
        "'hyperband' or 'none', but got 'meidan'; did you mean median? (study.yaml line 19)"),
    Bad("tracker", line("pruner: none\ntrackers: [tensorbord]"),
        "'wandb' or 'mlflow', but got 'tensorbord'; did you mean tensorboard? (study.yaml line "
        "20)"),
    Bad("tracker-twice", line("pruner: none\ntrackers: [wandb, wandb]"),
        "trackers: wandb stands twice, but got ['wandb', 'wandb'] (study.yaml line 20)"),
    Bad("tracker-as-text", line("pruner: none\ntrackers: wandb"),
        "trackers: must be a list, but got 'wandb' (study.yaml line 20)"),
    Bad("tracker-not-installed", both(line("pruner: none\ntrackers: [wandb]"),
        lambda place: place.patch.setitem(sys.modules, "wandb.sdk", None)),
        "None in sys.modules); install it with: pip install 'segtune[wandb]'"),
    Bad("metric", line("pruner: none\nmetric: boundry IoU"),
        "but got 'boundry_iou'; did you mean boundary_iou? (study.yaml line 20)"),
    Bad("metric-of-text", line("pruner: none\nmetric: hmean"),
        "metric.name: must be 'iou', 'dice' or 'boundary_iou', but got 'hmean' (study.yaml"),
    Bad("metric-key", line("pruner: none\nmetric: {nam: dice}"),
        "metric.nam: unknown key; did you mean name? (study.yaml line 20)"),
    Bad("metric-as-number", line("pruner: none\nmetric: 3"),
        "metric: must hold `key: value` lines, but got 3; known keys: name, classes, weights"),
    Bad("metric-class", line("pruner: none\nmetric: {classes: [car, rod]}"),
        "metric.classes.1: no class is called rod; did you mean road? (study.yaml line 20)"),
    Bad("metric-class-twice", line("pruner: none\nmetric: {classes: [car, car]}"),
        "metric.classes.1: car stands twice; keep one (study.yaml line 20)"),
    Bad("metric-class-ignored", both(data("ignore_classes: [car]"),
                                     line("pruner: none\nmetric: {classes: [road, car]}")),
        "metric.classes.1: car is one of data.ignore_classes; leave it out in one"),
    Bad("metric-no-class", line("pruner: none\nmetric: {classes: []}"),
        "metric.classes: must have at least one item, but got [] (study.yaml line 20)"),
    Bad("metric-weight-class", line("pruner: none\nmetric: {weights: {carr: 2}}"),
        "metric.weights: no class is called carr; did you mean car? (study.yaml line 20)"),
    Bad("metric-weight-spare", line("pruner: none\nmetric: {classes: [car], weights: {road: 2}}"),
        "metric.weights: road does not count; remove its weight (study.yaml line 20)"),
    Bad("metric-weight-true", line("pruner: none\nmetric: {weights: {car: true}}"),
        "metric.weights: car: must be a number (study.yaml line 20)"),
    Bad("metric-weight-negative", line("pruner: none\nmetric: {weights: {car: -1}}"),
        "metric.weights.car: must be greater than or equal to 0, but got -1 (study.yaml line 20)"),
    Bad("metric-weights-0", line("pruner: none\nmetric: {classes: [car], weights: {car: 0}}"),
        "metric.weights: every class that counts has weight 0; raise one (study.yaml line 20)"),
    Bad("metric-in-space", space("metric.name: [iou, dice]"),
        "metric.name: trials are compared by it, so it is no setting of a trial; write `metric:`"),
    Bad("metric-of-segmentation", edit("budget: {trials: 2}", "metric: miou", "words.yaml"),
        "metric.name: must be 'hmean' or 'cleval', but got 'miou' (", "launch words.yaml"),
    Bad("metric-not-installed", both(edit("budget: {trials: 2}", "metric: CLEval", "words.yaml"),
        lambda place: place.patch.setitem(sys.modules, "cleval", None)),
        "CLEval is not installed; install it with: pip install 'segtune[cleval]'",
        "launch words.yaml"),
    Bad("metric-class-not-in-val",
        both(nine_classes, line("pruner: none\nmetric: {classes: [tram]}")),
        "metric.classes: tram has no pixel in val, so that it cannot be scored; remove it"),
    Bad("class-not-in-train", both(nine_classes,
                                   draw("data/val/masks/street_0000.png", np.full((40, 48), 8))),
        "train has none, so that no model can find them: tram (1920); divide the images otherwise"),
    Bad("ignore-class", data("ignore_classes: [roads]"),
        "data.ignore_classes: no class is called roads; did you mean road? (study.yaml line 7)"),
    Bad("ignore-class-twice", data("ignore_classes: [car, car]"),
        "data.ignore_classes: car stands twice; keep one (study.yaml line 7)"),
    Bad("seed-true", line("pruner: none\nseed: true"),
        "seed: must be a number, but got true (study.yaml line 20)"),
    # ranges
    Bad("bounds-reversed", line("optim.lr: {low: 1e-2, high: 1e-4}"),
        "optim.lr: low must be <= high, but got low=0.01, high=0.0001 (study.yaml line 9)"),
    Bad("bound-nan", line("optim.lr: {low: .nan, high: 1e-2}"),
        "optim.lr: low must be finite, but got nan (study.yaml line 9)"),
    Bad("bound-inf", line("optim.lr: {low: 1e-4, high: .inf}"),
        "optim.lr: high must be finite, but got inf (study.yaml line 9)"),
    Bad("bound-text", line("optim.lr: {low: small, high: 1}"),
        "optim.lr: low must be a number, but got 'small' (study.yaml line 9)"),
    Bad("bound-true", line("optim.lr: {low: 1e-4, high: true}"),
        "optim.lr: high must be a number, but got true (study.yaml line 9)"),
    Bad("bound-missing", line("optim.lr: {high: 1e-2}"),
        "optim.lr: a range needs low and high, but low is missing (study.yaml line 9)"),
    Bad("bound-outside", space("optim.momentum: {low: 0.5, high: 1.5}"),
        "optim.momentum: must be less than 1, but got 1.5 (study.yaml line 16)"),
    Bad("bound-float-for-int", space("optim.warmup_epochs: {low: 0, high: 2.5}"),
        "optim.warmup_epochs: high must be a whole number, but got 2.5 (study.yaml line 16)"),
    Bad("log-of-0", line("optim.lr: {low: 0, high: 1e-2, log: true}"),
        "optim.lr: a log range needs low > 0, but got low=0.0 (study.yaml line 9)"),
    Bad("log-of-negative", line("optim.lr: {low: -1e-3, high: 1, log: true}"),
        "optim.lr: a log range needs low > 0, but got low=-0.001 (study.yaml line 9)"),
    Bad("log-as-number", line("optim.lr: {low: 1e-4, high: 1e-2, log: 10}"),
        "optim.lr: log must be true or false, but got 10 (study.yaml line 9)"),
    Bad("prior-as-number", line("optim.lr: {low: 1e-4, high: 1e-2, log: true, prior: 1e-3}"),
        "optim.lr: prior must be a mapping, as in {center: 0.001, spread: 3x}, but got 0.001 "
        "(study.yaml line 9)"),
    Bad("prior-key", line("optim.lr: {low: 1e-4, high: 1e-2, prior: {centre: 1e-3, spread: 3x}}"),
        "optim.lr: unknown key prior.centre; did you mean center? (study.yaml line 9)"),
    Bad("prior-without-spread", line("optim.lr: {low: 1e-4, high: 1e-2, prior: {center: 1e-3}}"),
        "optim.lr: a prior needs center and spread; spread is missing (study.yaml line 9)"),
    Bad("prior-outside", line("optim.lr: {low: 1e-4, high: 1e-2, prior: {center: 1, spread: 3x}}"),
        "the prior's center must be a number from low=0.0001 to high=0.01, but got 1 (study.yaml "
        "line 9)"),
    Bad("prior-spread-of-log",
        line("optim.lr: {low: 1e-4, high: 1e-2, prior: {center: 1e-3, spread: 3}}"),
        "optim.lr: of a log range the prior's spread must be a factor above 1, as in 3x, but got 3 "
        "(study.yaml line 9)"),
    Bad("prior-spread-of-linear",
        space("optim.momentum:", "  low: 0.5", "  high: 0.99",
              "  prior: {center: 0.9, spread: 2x}"),
        "optim.momentum: of a range that is not log the prior's spread must be a number > 0 in its "
        "units, as in 0.098, but got '2x' (study.yaml line 19)"),
    Bad("prior-of-free",
        text_space("decode.box_thresh: {free: true, low: 0.1, high: 0.9, prior: {center: 0.5}}"),
        "decode.box_thresh: what is free is not drawn but tried at every value; drop prior "
        "(words.yaml line 11)", "launch words.yaml"),
    Bad("prior-of-choices", space("optim.momentum: {choices: [0.5, 0.9], prior: {center: 0.5}}"),
        "optim.momentum: choices stands alone, without low, high, log, step or prior "
        "(study.yaml line 16)"),
    Bad("prior-with-qmc", both(line("sampler: qmc"),
        line("optim.lr: {low: 1e-4, high: 1e-2, prior: {center: 1e-3, spread: 3x}}")),
        "optim.lr: qmc covers every range evenly, so it has no use for a prior; drop prior, or "
        "write sampler: tpe (study.yaml line 9)"),
    Bad("prior-without-startup", both(line("sampler: {name: gp, startup_trials: 0}"),
        line("optim.lr: {low: 1e-4, high: 1e-2, prior: {center: 1e-3, spread: 3x}}")),
        "optim.lr: the first sampler.startup_trials trials are drawn from a prior, but that is 0; "
        "drop prior, or write startup_trials: 10 (study.yaml line 9)"),
    Bad("log-with-step", line("optim.lr: {low: 1, high: 2, log: true, step: 0.5}"),
        "optim.lr: a log range has no step; drop log or step (study.yaml line 9)"),
    Bad("step-too-large", space("optim.momentum: {low: 0.1, high: 0.9, step: 2}"),
        "optim.momentum: step must be <= high - low = 0.8, but got 2 (study.yaml line 16)"),
    Bad("step-0", space("optim.momentum: {low: 0, high: 0.9, step: 0}"),
        "optim.momentum: step must be a number > 0, but got 0 (study.yaml line 16)"),
    Bad("range-of-words", space("loss.region: {low: 1, high: 2}"),
        "loss.region: takes a list of choices, not a range (study.yaml line 16)"),
    Bad("free", space("optim.momentum: {free: true, low: 0, high: 0.9}"),
        "optim.momentum: only decode.threshold can be free (searched inside a trial)"),
    Bad("space-no-class", space("decode.fill_holes: {raod: 5}"),
        "decode.fill_holes: raod is no class of these data; did you mean road?"),
    # choices and values
    Bad("choices-empty", space("loss.region: []"),
        "loss.region: the list of choices is empty; give at least one (study.yaml line 16)"),
    Bad("choices-twice", space("loss.region: [dice, lovasz, dice]"),
        "loss.region: the choice dice stands twice; keep one (study.yaml line 16)"),
    Bad("choices-twice-spelt", space("loss.smooth: [1, 1.0]"),
        "loss.smooth: the choice 1.0 stands twice; keep one (study.yaml line 16)"),
    Bad("choices-list", space("loss.region: [[dice, lovasz]]"),
        "loss.region: a choice must be a single value, but got ['dice', 'lovasz']"),
    Bad("choices-no-list", space("loss.region: {choices: dice}"),
        "loss.region: choices must be a list, but got 'dice' (study.yaml line 16)"),
    Bad("choices-and-low", space("loss.focal_gamma: {choices: [1], low: 1}"),
        "loss.focal_gamma: choices stands alone, without low, high, log, step or prior"),
    Bad("choices-bool-int", space("optim.step_epochs: [1, true]"),
        "optim.step_epochs: choices mix true/false with other values: [1, true]"),
    Bad("choice-unknown", space("loss.region: [dice, tverski]"),
        "'jaccard' or 'lovasz', but got 'tverski'; did you mean tversky? (study.yaml line 16)"),
    Bad("choice-outside", space("optim.poly_power: [1, 11]"),
        "optim.poly_power: must be less than or equal to 10, but got 11 (study.yaml line 16)"),
    Bad("value-true", space("optim.step_epochs: true"),
        "optim.step_epochs: must be a number, but got true (study.yaml line 16)"),
    Bad("value-null", space("optim.momentum:"),
        "optim.momentum: must be a number, but got null (study.yaml line 16)"),
    Bad("value-text", space("optim.momentum: high"),
        "optim.momentum: must be a number, but got 'high' (study.yaml line 16)"),
    Bad("value-nan", space("optim.momentum: .nan"),
        "optim.momentum: must be finite, but got nan (study.yaml line 16)"),
    Bad("values-together", space("loss.tversky_alpha: 0", "loss.tversky_beta: [0, 0.5]"),
        "loss.tversky_beta: tversky_alpha + tversky_beta must be above 0 (study.yaml line 17)"),
    Bad("resolution-text", line("data.resolution: 32by32"),
        "must be HxW, [height, width] or one number, in pixels, but got '32by32'"),
    Bad("resolution-8", line("data.resolution: [8x8, 32x32]"),
        "both sides must be in 16..8192 pixels, but got '8x8' (study.yaml line 12)"),
    # conditions
    Bad("when-never-met", space("loss.region: dice", "loss.tversky_alpha: {low: 0, high: 0.8}"),
        "loss.tversky_alpha: never used: it counts only where loss.region is tversky, but "
        "loss.region is dice; remove it (study.yaml line 17)"),
    Bad("scale-without-crop", space("data.scale: [0.5, 1.0]"),
        "data.scale: never used: it counts only where data.mode is crop, but data.mode is resize; "
        "remove it (study.yaml line 16)"),
    Bad("scale-8", both(space("data.mode: crop", "data.scale: [1, 8]"),
                        edit("# data: line 7", "max_pixels: 50000")),
        "but data.max_pixels is 50000; lower data.scale"),
    Bad("when-on-range", space("loss.smooth: {low: 1, high: 2, when: {optim.lr: 1e-3}}"),
        "loss.smooth: when: optim.lr is a range; a condition needs choices (study.yaml line 16)"),
    Bad("when-circle",
        space("loss.squared: {choices: [true, false], when: {optim.nesterov: true}}",
              "optim.nesterov: {choices: [true, false], when: {loss.squared: true}}"),
        "the conditions of loss.squared, optim.nesterov form a circle (study.yaml line 16)"),
    Bad("when-text", space("optim.momentum: {low: 0, high: 0.9, when: sgd}"),
        "optim.momentum: when must be {parameter: value or list of values} (study.yaml line 16)"),
    # networks and devices
    Bad("arch", line("model.arch: Unett"),
        "model.arch: unknown architecture Unett; did you mean Unet? (study.yaml line 13)"),
    Bad("arch-choice", line("model.arch: [Unet, FPM]"),
        "model.arch: unknown architecture FPM; did you mean FPN? (study.yaml line 13)"),
    Bad("encoder", line("model.encoder: resnet81"),
        "model.encoder: unknown encoder resnet81; did you mean resnet18? (study.yaml line 14)"),
    Bad("encoder-choice", line("model.encoder: [resnet18, resnet43]"),
        "model.encoder: unknown encoder resnet43; did you mean resnet34? (study.yaml line 14)"),
    Bad("encoder-timm", line("model.encoder: tu-resnet18x"),
        "model.encoder tu-resnet18x cannot be built: Unknown model (resnet18x)"),
    Bad("pair", both(line("model.arch: DeepLabV3Plus"), line("model.encoder: vgg11")),
        "model.arch: DeepLabV3Plus goes with none of vgg11: it needs an encoder that can be "
        "dilated (study.yaml line 13)"),
    Bad("pair-of-choices", both(line("model.arch: PAN"), line("model.encoder: [resnet18, vgg13]")),
        "model.encoder: vgg13 goes with none of PAN: it needs an encoder that can be dilated"),
    Bad("weights", line("model.encoder_weights: imagenett"),
        "resnet18 has no 'imagenett' weights; did you mean imagenet?; known: imagenet, ssl, swsl"),
    Bad("weights-offline", both(offline, line("model.encoder_weights: imagenet")),
        "the 'imagenet' weights of resnet18 could not be loaded"),
    Bad("batch-1", both(line("model.arch: DeepLabV3Plus"), line("train.batch_size: [1, 4]")),
        "train.batch_size: DeepLabV3Plus needs at least 2 images at once"),
    Bad("side-32", line("model.arch: PAN"),
        "data.resolution: PAN needs sides of at least 128 pixels, but the space has 32"),
    Bad("fp16-on-cpu", space("train.precision: fp16"), "train.precision: fp16 needs a GPU"),
    # data: where it is
    Bad("path", edit("data/val/images", "data/vall/images"),
        "/data/val? (study.yaml line 5)"),
    Bad("path-of-nobody", edit("data/val/images", "~nobody9/x"),
        "data.val.images: '~nobody9/x' cannot be read: Could not determine home directory"),
    Bad("path-of-file", edit("data/val/images", "study.yaml"),
        "is not a folder (study.yaml line 5)"),
    Bad("split-as-path", line("val: data/val"),
        "data.val: must hold `key: value` lines, but got 'data/val'; known keys: images, masks"),
    Bad("split-no-masks", line("val: {images: data/val/images}"),
        "data.val: masks is missing; images and masks go together (study.yaml line 5)"),
    Bad("suffix-unknown",
        line("val: {images: data/val/images, masks: data/val/masks, mask_suffix: _L}"),
        "data.val: 2 of 2 images have no mask; the first is"),
    Bad("init-from-what-is-none", nothing,
        "data/train/images: no layout of a data set that is known; it has 4 .png; the first is",
        "init --from data/train/images --to new.yaml"),
    Bad("split-empty", both(empty("data/val/images"), empty("data/val/masks")),
        "data.val: no images (.png, .jpg, .jpeg, .tif, .tiff, .bmp, .webp) found"),
    Bad("image-unpaired", remove(MASK), "data.train: 1 of 4 images have no mask; the first is"),
    Bad("mask-spare", remove(IMAGE), "data.train: 1 of 4 masks have no image; the first is"),
    Bad("stem-twice", copy(IMAGE, "data/train/images/street_0001.bmp"),
        "street_0001.png: the same stem as street_0001.bmp; keep one of them"),
    Bad("list-missing-file",
        both(line("val: {list: val.txt}"), write("val.txt", f"{PAIR}no.png x")),
        "val.txt line 2: /"),
    Bad("list-three-parts",
        both(line("val: {list: val.txt}"), write("val.txt", f"#\n{PAIR[:-1]} 1")),
        "val.txt line 2: must be `image mask`, but has 3 parts"),
    Bad("fraction-1.5", line("val: {fraction: 1.5}"),
        "data.val.fraction: must be less than 1, but got 1.5 (study.yaml line 5)"),
    Bad("fraction-of-train", line("train: {fraction: 0.5}"),
        "data.train.fraction: is for val only"),
    Bad("fraction-leaves-none", line("val: {fraction: 0.5, group: '^(street)'}"),
        "data.val.fraction: 0.5 of 4 images in 1 groups leaves none to train on"),
    Bad("group-no-match", line("val: {fraction: 0.5, group: '^(road)'}"),
        "data.val.group: '^(road)' must match every stem, but does not match street_0000"),
    Bad("group-no-regex", line("val: {fraction: 0.5, group: '('}"),
        "data.val.group: not a regular expression: missing ), unterminated subpattern"),
    Bad("group-no-capture", line("val: {fraction: 0.5, group: x}"),
        "data.val.group: needs one capture, as in '^([^_]+)_' (study.yaml line 5)"),
    # data: folds
    Bad("val-missing", line("val: null"),
        "data.val: is missing; give a split, {fraction: 0.2}, or data.folds (study.yaml line 5)"),
    Bad("val-and-folds", data("folds: {count: 2}"),
        "data.folds: every image of train is validated on in its fold, so there is no val; remove"),
    Bad("folds-1", folds("{count: 1}"),
        "data.folds.count: must be greater than or equal to 2, but got 1 (study.yaml line 5)"),
    Bad("folds-5-of-4", folds("{count: 5}"),
        "data.folds.count: 5 folds need as many groups, but 4 images are in 4 groups; lower it"),
    Bad("folds-of-one-group", folds("{count: 2, group: '^(street)'}"),
        "data.folds.count: 2 folds need as many groups, but 4 images are in 1 groups; lower it"),
    Bad("folds-group-no-match", folds("{count: 2, group: '^(road)'}"),
        "data.folds.group: '^(road)' must match every stem, but does not match street_0000"),
    Bad("folds-group-no-capture", folds("{count: 2, group: x}"),
        "data.folds.group: needs one capture, as in '^([^_]+)_' (study.yaml line 5)"),
    Bad("folds-same-image", both(folds("{count: 4}"), copy(IMAGE, IMAGE.replace("1.", "2."))),
        "street_0001.png (fold 3) is the same image as"),
    Bad("folds-class-unlearnt",
        both(folds("{count: 2}"), line("classes: [sky, road]"),
             *(draw(MASK.replace("1.", f"{n}."), np.full((40, 48), n // 3)) for n in range(4))),
        "data.folds, fold 2: of these classes val has pixels, but train has none"),
    # data: what is in the files
    Bad("png-cut", halve(IMAGE),
        "images/street_0001.png: cannot be decoded: image file is truncated; is the file"),
    Bad("mask-cut", halve(MASK),
        "masks/street_0001.png: cannot be decoded: image file is truncated; is the file complete?"),
    Bad("jpeg-cut", both(to_jpeg, halve("data/train/images/street_0001.jpg")),
        "street_0001.jpg: cannot be decoded: "),
    Bad("link-to-nothing", link(MASK, "gone.png"),
        "masks/street_0001.png: a link to gone.png, which does not exist; remove it, or put that"),
    Bad("pipe", pipe(IMAGE), "images/street_0001.png: not a plain file, but a pipe; move it else"),
    Bad("png-of-text", write(IMAGE, "hello"), "street_0001.png: not an image that can be read"),
    Bad("png-of-0-bytes", write(IMAGE, ""), "images/street_0001.png: an empty file"),
    Bad("bomb", claim_side(50_000), "50000x50000 is 2500000000 pixels, but data.max_pixels is"),
    Bad("bomb-under-raised-limit", both(claim_side(20_000), data("max_pixels: 300_000_000")),
        "20000x20000 is 400000000 pixels, but data.max_pixels is 300000000"),
    Bad("large-by-limit", both(draw(IMAGE, np.zeros((110, 100, 3))), data("max_pixels: 10_000")),
        "100x110 is 11000 pixels, but data.max_pixels is 10000; a decompression bomb? else raise"),
    Bad("mask-value", draw(MASK, [[0, 9] * 24] * 40),
        "street_0001.png: mask value 9 at row 0, column 1 is no class; classes are 0..7"),
    Bad("mask-rgb", draw(MASK, np.zeros((40, 48, 3))),
        "a mask must hold one class index a pixel, but its mode is RGB; its three channels are"),
    Bad("mask-colour", both(data("palette: [[0, 0, 0], [9, 9, 9]]"), line("classes: [road, car]")),
        "street_0000.png: colour (255, 255, 255) at row 0, column 0 is neither in data.palette"),
    Bad("mask-size", draw(MASK, np.zeros((40, 40))),
        "masks/street_0001.png: 40x40 pixels, but its image "),
    Bad("mask-void",
        both(draw("data/val/masks/street_0000.png", np.full((40, 48), 255)),
             draw("data/val/masks/street_0001.png", np.full((40, 48), 255))),
        "data.val: every pixel of every mask is ignored; check data.ignore_index"),
    Bad("image-in-two-splits",
        both(copy(IMAGE, IMAGE.replace("train", "val")), copy(MASK, MASK.replace("train", "val"))),
        "street_0001.png (val) is the same image as"),
    # data: classes
    Bad("classes-broken", write("data/classes.json", '{"classes": ['),
        "data/classes.json is not JSON: Expecting value: line 1 column 14"),
    Bad("classes-no-names", write("data/classes.json", '{"names": []}'),
        'classes.json must hold a list of names, or {"classes": [...]} (study.yaml line 6)'),
    Bad("classes-no-file", line("classes: classes.txt"),
        "classes.txt does not exist (study.yaml line 6)"),
    Bad("classes-twice", line("classes: [car, pole, car]"),
        "data.classes: car stands twice (study.yaml line 6)"),
    Bad("classes-none", line("classes: []"),
        "data.classes: must have at least one item, but got [] (study.yaml line 6)"),
    Bad("classes-numbers", line("classes: [1, 2]"),
        "data.classes.0: must be text, but got 1 (study.yaml line 6)"),
    Bad("classes-count", line("classes: 8"),
        "data.classes: must be a list, but got 8 (study.yaml line 6)"),
    Bad("ignore-a-class", data("ignore_index: 3"),
        "data.ignore_index: 3 is the index of class pavement (study.yaml line 7)"),
    Bad("palette-short", data("palette: [[0, 0, 0]]"),
        "data.palette: has 1 colours, but there are 8 classes (study.yaml line 7)"),
    Bad("palette-256", data("palette_ignore: [[0, 0, 256]]"),
        "data.palette_ignore: a colour is R, G, B in 0..255, but got (0, 0, 256)"),
    Bad("palette-pair", data("palette_ignore: [[0, 0]]"),
        "data.palette_ignore.0: needs 3 values, but got [0, 0] (study.yaml line 7)"),
    # studies and their results
    Bad("study-misspelt", launched, "; did you mean small?", "status smal"),
    Bad("study-unknown", launched, "store.db; known: small", "export tiny --to best"),
    Bad("study-none", nothing, "no study small in sqlite:///", "export small --to best"),
    Bad("spec-changed", both(launched, line("train.batch_size: 2")),
        "-  train.batch_size: 4\n+  train.batch_size: 2\n"),
    Bad("data-changed", both(launched, draw(MASK, np.zeros((40, 48)))),
        "the data of study small have changed since it began"),
    Bad("export-too-early", launched,
        "study small has no finished trial yet", "export small --to x"),
    Bad("export-to-file", finished,
        "--to study.yaml: study.yaml is a file; name a folder", "export small --to study.yaml"),
    Bad("export-below-file", finished, "--to study.yaml/x: ", "export small --to study.yaml/x"),
    Bad("export-to-others", finished, "--to data holds other files", "export small --to data"),
    Bad("export-here", finished, "--to . is where you are", "export small --to ."),
    Bad("export-trial-unknown", finished,
        "trial 7 of study small has not ended with a value; those that have: 0",
        "export small --to best --trial 7"),
    Bad("refit-without-folds", finished,
        "--refit: study small has no data.folds, so no median of best epochs to train for",
        "export small --to best --refit"),
    Bad("export-two-ways", finished,
        "--refit and --all-configs exclude each other; leave one of them out",
        "export small --to best --all-configs --refit"),
    Bad("export-all-of-one", finished,
        "--all-configs writes every trial; leave --trial and --fastest-within out",
        "export small --to best --all-configs --trial 0"),
    Bad("export-no-weights", finished,
        "the weights of trial 0 are not in", "export small --to best"),
    Bad("export-test-changed", both(tested, draw("data/test/masks/a.png", np.zeros((40, 48)))),
        "study small cannot be scored on test: its data are not those that it began with; put "
        "them back, or leave the test split unread with --no-test",
        "export small --to best"),
    Bad("export-test-gone", both(tested, remove("data/test/masks/a.png")),
        "the test split cannot be scored: data.test: 1 of 1 images have no mask",
        "export small --to best"),
    Bad("report-too-early", launched,
        "study small has nothing to report: no trial has ended yet", "report small"),
    Bad("report-no-folder", finished,
        "--to none/r.md: the folder none does not exist; make it first",
        "report small --to none/r.md"),
    Bad("report-ending", finished,
        "--to r.pdf: must end in .html or .md, or give --format", "report small --to r.pdf"),
    Bad("report-format", finished,
        "--format htm: must be html or md; did you mean html?", "report small --format htm"),
    # other commands
    Bad("check", line("optim.lr: {low: 3, high: 1}"), "got low=3.0, high=1.0", "check study.yaml"),
    Bad("init-twice", nothing, "study.yaml exists; choose another folder", "init segmentation ."),
    Bad("init-task", nothing,
        "unknown task segmentatoin; did you mean segmentation?", "init segmentatoin mine"),
    Bad("init-in-file", nothing, "segtune: study.yaml is a file", "init segmentation study.yaml"),
    Bad("init-below-file", nothing, "cannot make the folder", "init segmentation study.yaml/x"),
    Bad("spaces-task", nothing,
        "unknown task ocr; known: segmentation, text_detection", "spaces ocr"),
    Bad("demo-in-file", nothing, "--to study.yaml is a file", "demo --to study.yaml"),
    Bad("launch-a-config", exported,
        "is an exported config; give it to `segtune train`", "launch best/config.yaml"),
    Bad("train-a-study", nothing,
        "study.yaml is a study file; give it to `segtune launch`", "train study.yaml --to best"),
    Bad("train-no-file", nothing,
        "segtune: config.yaml: no such file", "train config.yaml --to best"),
    Bad("train-to-file", exported,
        "--to data/classes.json: ", "train best/config.yaml --to data/classes.json"),
    Bad("train-key", write("c.yaml", "task: segmentation\ntrail: {}"),
        "trail: unknown key; did you mean trial? (c.yaml line 2)", "train c.yaml --to best"),
    Bad("train-value",
        both(exported, edit(" lr: 0.001", " lr: -1", "best/config.yaml")),
        "trial.optim.lr: must be greater than 0, but got -1", "train best/config.yaml --to x"),
    Bad("evaluate-no-folder", nothing, "nowhere/config.yaml: no such file", "evaluate nowhere"),
    Bad("evaluate-no-model", exported, "best has no model/config.json", "evaluate best"),
    Bad("evaluate-split", with_weights,
        "the data set has no split 'nonsense'; it has train, val", "evaluate best --data nonsense"),
    Bad("evaluate-damaged", both(manifested, write("best/model/model.safetensors", "other")),
        "best/model/model.safetensors is damaged: its SHA-256 is not that of what was written; "
        "export it again", "evaluate best"),
    Bad("train-damaged", both(manifested, write("best/manifest.json", "{")),
        "best/manifest.json is damaged: it is no JSON; export it again",
        "train best/config.yaml --to x"),
    # where results go
    Bad("artifacts-file", nothing,
        "--artifacts must be a folder, but", "launch study.yaml --artifacts study.yaml"),
    Bad("artifacts-s3", nothing,
        "--artifacts must be a folder or s3://bucket/prefix, but got s3://My_Bucket",
        "launch study.yaml --artifacts s3://My_Bucket"),
    Bad("home-file", env("SEGTUNE_HOME", "study.yaml"), "SEGTUNE_HOME must be a folder, but"),
    Bad("store-password-shown", nothing,
        "--store holds a password, which everybody on this machine can read",
        f"launch study.yaml --store postgresql://ann:{SECRET}@127.0.0.1:{{closed}}/db"),
    Bad("store-closed-port", store(f"postgresql://ann:{SECRET}@127.0.0.1:{{closed}}/db"),
        "failed: Connection refused", "status"),
    Bad("store-unknown-host", store(f"postgresql://ann:{SECRET}@none.invalid/db?sslmode=require"),
        'could not translate host name "none.invalid"', "status"),
    Bad("store-password", store(f"postgresql://segtune:{SECRET}@{{server}}/postgres"),
        "refused the user name or password"),
    # in template1 no test ever opens a store
    Bad("store-no-rights", both(guest, store(f"postgresql://guest:{SECRET}@{{server}}/template1")),
        "has no tables yet, and the role guest may not change that; let the owner of the tables "
        "(segtune_owner, where there are roles) run: segtune migrate"),
    Bad("store-no-database", both(guest, store(f"postgresql://guest:{SECRET}@{{server}}/nothing")),
        'FATAL: database "nothing" does not exist'),
    Bad("store-postgres", store(f"postgres://ann:{SECRET}@db/x"),
        "scheme must be postgresql://, but got postgres://"),
    Bad("store-mysql", store(f"mysql://ann:{SECRET}@db/x"),
        "scheme must be postgresql:// or sqlite:///, but got mysql://"),
    Bad("store-no-scheme", store(f"ann:{SECRET}@db/x"),
        "or sqlite:///file.db, but got 'ann:***@db/x'", "status"),
    Bad("store-dsn", store(f"user=ann,password={SECRET}"),
        "but got 'user=ann,password=***'", "status"),
    Bad("store-brace", store(f"postgresql://ann:{SECRET}{{x@db/x"),
        "the store URL holds a {; write it as %7B in the password"),
    Bad("store-at", store(f"postgresql://ann:x@{SECRET}@db/x"),
        "holds more than one @; write @ as %40 in the password"),
    Bad("store-port", store(f"postgresql://ann:{SECRET}"),
        "the port of the store URL must be a number below 65536, as in postgresql://", "status"),
    Bad("store-option", store(f"postgresql://ann:{SECRET}@127.0.0.1/db?sslmod=require"),
        'invalid connection option "sslmod"', "status"),
    Bad("store-sqlite-no-folder", nothing,
        "the sqlite store's folder", "status --store sqlite:///x/y"),
    Bad("store-sqlite-folder", nothing,
        "a sqlite store must be a file, but data is a folder", "status --store sqlite:///data"),
    Bad("store-sqlite-slashes", nothing,
        "must be sqlite:///file.db, but got sqlite://file.db", "status --store sqlite://file.db"),
    Bad("store-sqlite-memory", nothing,
        "but got sqlite:///:memory:", "status --store sqlite:///:memory:"),
    Bad("store-sqlite-other", nothing,
        "file is not a database", "status --store sqlite:///study.yaml"),
    Bad("store-sqlite-missing", nothing,
        "typo.db does not exist; is its name right?", "status --store sqlite:///typo.db"),
    # roles of the store
    Bad("roles-unknown", nothing,
        "--password-file must be ROLE=FILE, with a ROLE of segtune_reader, segtune_worker, "
        "segtune_jobs, segtune_dashboard, segtune_owner, but got worker=p",
        "migrate --password-file worker=p"),
    Bad("roles-no-file", nothing, "segtune_owner, but got segtune_worker",
        "migrate --password-file segtune_worker"),
    Bad("roles-file-missing", nothing,
        "--password-file segtune_worker: p cannot be read: No such file or directory",
        "migrate --password-file segtune_worker=p"),
    Bad("roles-password-empty", write("p", "\n"),
        "--password-file segtune_reader: p holds no password; write one line of text into it",
        "migrate --password-file segtune_reader=p"),
    Bad("roles-password-null", write("p", f"{SECRET}\0"),
        "--password-file segtune_owner: p holds no password", 
        "migrate --password-file segtune_owner=p"),
    Bad("roles-two-lines", write("p", f"{SECRET}\n{SECRET}\n"),
        "--password-file segtune_reader: p must hold one line, but has 2",
        "migrate --password-file segtune_reader=p"),
    Bad("roles-of-sqlite", write("p", SECRET), "only Postgres has roles, but the store is sqlite:",
        "migrate --password-file segtune_reader=p"),
    Bad("roles-print-and-run", nothing, "--roles only prints, and --password-file runs it",
        "migrate --roles --password-file segtune_reader=p"),
    # workers
    Bad("delete-unknown", nothing, "no study smoke in sqlite:///", "delete smoke --yes"),
    Bad("delete-nobody-there", launched, "delete asks first, and nobody is there; with --yes goes "
        "study small of sqlite:///", "delete small"),
    Bad("stop-unknown", nothing, "no study phantom in sqlite:///", "stop phantom"),
    Bad("resume-unknown", nothing, "no study ghost in sqlite:///", "resume ghost"),
    Bad("resume-fewer", launched,
        "--trials 1: study small has 2 already, and a budget only grows; to end it where it is: "
        "segtune stop small", "resume small --trials 1"),
    Bad("confirm-left-not-ended", launched,
        "study small has not ended: 0 of its trials run and 2 are open; wait, or end it: segtune "
        "stop small", "confirm small --leave"),
    Bad("worker-unknown", nothing, "no study spirit in sqlite:///", "worker --study spirit"),
    Bad("workers-on-sqlite", nothing,
        "workers and --detach need Postgres, but the store is sqlite:///",
        "launch study.yaml --workers 2"),
    Bad("launch-stopped", both(launched, sql("UPDATE segtune_control SET stop = 'after'")),
        "study small was stopped (after); reopen it with: segtune resume small"),
    Bad("hours-negative", line("budget: {hours: -1}"),
        "budget.hours: must be greater than 0, but got -1 (study.yaml line 17)"),
    Bad("store-newer", sql("UPDATE segtune_schema SET version = 99"),
        f"the store has schema 99, but this segtune knows {SCHEMA_VERSION}; upgrade segtune",
        "status"),
    # text detection
    Bad("text-no-labels", remove(LABEL),
        "receipt_0000.png has no boxes; they must be in ", "launch words.yaml"),
    Bad("text-short-line", write(LABEL, "1,2,30,2,30,9,1,9,ok\n1,2,3,4,total\n"),
        "gt_receipt_0000.txt line 2: a line must start with 8 comma-separated numbers, but after 4 "
        "field 5 is 'total'", "check words.yaml"),
    Bad("text-not-utf8", write(LABEL, b"1,2,30,2,30,9,1,9,caf\xe9\n"),
        "gt_receipt_0000.txt line 1: the file must be UTF-8, but holds the byte 0xe9",
        "launch words.yaml"),
    Bad("text-outside", write(LABEL, "1,2,30,2,30,9,1,9,in\n900,2,930,2,930,9,900,9,out\n"),
        "gt_receipt_0000.txt line 2: the box lies wholly outside of ", "launch words.yaml"),
    Bad("text-nothing-counts", both(
        write(LABEL, "1,2,30,2,30,9,1,9,###\n"),
        write(LABEL.replace("0000", "0001"), "1,2,30,2,30,9,1,9,###\n")),
        "data.val: no text that counts; every box is don't-care", "launch words.yaml"),
    Bad("text-in-both-splits", copy("pages/train/images/receipt_0000.png",
        "pages/val/images/receipt_0000.png"),
        "receipt_0000.png (val) is the same image as ", "launch words.yaml"),
    Bad("text-json-broken", both(
        edit("labels: pages/val/labels", "labels: val.json", "words.yaml"),
        write("val.json", '{"images": [')),
        "val.json line 1: not JSON: ", "launch words.yaml"),
    Bad("text-json-other", both(
        edit("labels: pages/val/labels", "labels: val.json", "words.yaml"),
        write("val.json", '{"images": [], "annotations": []}')),
        "data.val: 2 of 2 images stand not in ", "launch words.yaml"),
    Bad("text-masks", edit("labels: pages/val", "masks: pages/val", "words.yaml"),
        "data.val.masks: unknown key", "launch words.yaml"),
    Bad("text-labels-alone", edit("{images: pages/val/images, labels", "{labels", "words.yaml"),
        "data.val: images is missing; images and labels go together (words.yaml line 5)",
        "launch words.yaml"),
    Bad("text-classes", edit("space:\n", "  classes: [text]\nspace:\n", "words.yaml"),
        "data.classes: unknown key (words.yaml line 6)", "launch words.yaml"),
    Bad("text-arch", text_space("model.arch: Unet"),
        "model.arch: unknown parameter; did you mean model.inner? (words.yaml line 11)",
        "launch words.yaml"),
    Bad("text-size", edit("data.resolution: 64", "data.resolution: 96x128", "words.yaml"),
        "data.resolution: must be a whole number, but got '96x128' (words.yaml line 8)",
        "launch words.yaml"),
    Bad("text-thresh", text_space("decode.box_thresh: 1.5"),
        "decode.box_thresh: must be less than 1, but got 1.5 (words.yaml line 11)",
        "launch words.yaml"),
    Bad("text-free", text_space("optim.momentum: {free: true, low: 0.1, high: 0.9, step: 0.1}"),
        "decode.unclip_ratio, decode.thresh, decode.max_candidates can be free",
        "launch words.yaml"),
    Bad("text-encoder", edit("encoder: resnet18", "encoder: tu-vit_tiny_patch16_224", "words.yaml"),
        "model.encoder tu-vit_tiny_patch16_224 with model.decoder fpn cannot be built: ",
        "launch words.yaml"),
    Bad("text-weights", text_exported,
        "does not hold a DBNet", "evaluate best"),
    Bad("set-no-value", text_exported,
        "--set decode.box_thresh: must be name=value, as in decode.",
        "evaluate best --set decode.box_thresh"),
    Bad("set-unknown", text_exported,
        "--set decode.box_tresh=0.5: decode.box_tresh is no decode setting; did you mean "
        "decode.box_thresh?", "evaluate best --set decode.box_tresh=0.5"),
    Bad("set-not-decode", text_exported,
        "--set optim.lr=0.1: optim.lr is no decode setting", "evaluate best --set optim.lr=0.1"),
    Bad("set-range", text_exported,
        "--set decode.box_thresh: must be less than 1, but got 7",
        "evaluate best --set decode.box_thresh=7"),
    Bad("set-nothing", exported,
        "--set optim.lrr=1: optim.lrr is no setting; did you mean optim.lr?",
        "train best/config.yaml --to new --set optim.lrr=1"),
    Bad("against-nothing", text_exported,
        "none/config.yaml: no such file", "evaluate best --against none"),
    Bad("cleval-of-masks", with_weights,
        "--cleval is a score of text detection, but this is segmentation",
        "evaluate best --cleval"),
    Bad("demo-task", nothing, "unknown task text_detector; did you mean text_detection?",
        "demo --task text_detector"),
    Bad("store-of-other-optuna", sql("UPDATE alembic_version SET version_num = 'v9.9.9.a'"),
        "store.db cannot be used: ", "status"),
]
# fmt: on


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """study.yaml, its data, and an empty store; to be copied."""
    folder = tmp_path_factory.mktemp("template")
    write_streets(folder / "data", train=4, val=2, size=(40, 48))
    (folder / "study.yaml").write_text(STUDY)
    write_receipts(folder / "pages", train=3, val=2, size=(120, 80))
    (folder / "words.yaml").write_text(TEXT_STUDY)
    open_store(f"sqlite:///{folder / 'store.db'}").close()
    return folder


@pytest.fixture(scope="session")
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that is taken and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def place(
    tmp_path: Path,
    template: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Place:
    place = Place(tmp_path / "place", monkeypatch, request)
    shutil.copytree(template, place.folder)
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("SEGTUNE_STORE", f"sqlite:///{place.folder / 'store.db'}")
    monkeypatch.setenv("SEGTUNE_ARTIFACTS", str(place.folder / "artifacts"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return place


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_is_refused_before_anything_begins(case: Bad, place: Place) -> None:
    case.change(place)
    before = place.contents()
    answer = CliRunner().invoke(app, place.command(case.run))
    check_message(case, answer.stderr)
    assert isinstance(answer.exception, SystemExit), answer.exception
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert place.contents() == before


@pytest.mark.parametrize(
    "name",
    [
        "bounds-reversed",
        pytest.param("weights-offline", marks=pytest.mark.cluster),
        pytest.param("store-password", marks=pytest.mark.cluster),
    ],
)
def test_the_script_ends_with_code_2_and_no_traceback(name: str, place: Place) -> None:
    case = next(case for case in CASES if case.id == name)
    case.change(place)
    before = place.contents()
    script = Path(sys.executable).with_name("segtune")
    command = [str(script), *place.command(case.run)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    check_message(case, answer.stderr)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert place.contents() == before


def check_message(case: Bad, message: str) -> None:
    """The case's own words stand in the message; no other's, no traceback, no password."""
    assert case.says in message
    assert not [other.id for other in CASES if other is not case and other.says in message]
    assert "Traceback" not in message
    assert SECRET not in message


def test_check_names_a_class_file_that_lies_elsewhere(place: Place) -> None:
    classes = place.folder.parent / f"{place.folder.name}.json"
    shutil.move(place.folder / "data" / "classes.json", classes)
    line(f"classes: {classes}")(place)
    answer = CliRunner().invoke(app, ["check", "study.yaml"])
    assert answer.exit_code == 0, answer.stderr
    said = f"outside of the study file's folder: data.classes reads {classes}\n"
    assert answer.stdout.count("outside of the study file's folder") == 1 and said in answer.stdout


def test_the_place_is_fine_without_a_change(place: Place) -> None:
    """So it is each case's change that is refused."""
    for study in ("study.yaml", "words.yaml"):
        answer = CliRunner().invoke(app, ["check", study])
        assert answer.exit_code == 0, answer.stderr
