"""Completion in a study file that somebody is writing: `|` is the caret."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.templates import study_file
from spaces.completion import ABOUT, Offer, complete
from spaces.models import ARCHS
from spaces.spec import TASKS

SPACE = "task: segmentation\nspace:\n  optim.momentum: 0.9\n  "
DATA = "task: segmentation\ndata:\n  "


def offered(text: str) -> Offer:
    before, after = text.split("|")
    return complete(before + after, len(before))


def words(text: str) -> list[str]:
    return [one.word for one in offered(text).completions]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("|", ["name: ", "task: ", "data: "]),
        ("bud|", ["budget: "]),
        ("task: |", ["segmentation", "text_detection"]),
        ("task: segmentation\nmetric: di|", ["dice", "mdice"]),
        ("task: text_detection\nmetric: h|", ["hmean"]),
        (f"{SPACE}optim.s|", ["optim.schedule: ", "optim.step_epochs: ", "optim.step_gamma: "]),
        (f"{SPACE}lr|", ["optim.lr: ", "optim.encoder_lr_ratio: "]),  # by a part of the name
        (f"{SPACE}OPTIM.LR|: 3", []),  # it is there
        (f"{SPACE}optim.l|: 3", ["optim.lr"]),  # the colon is there
        (f"{SPACE}optim.schedule: |", ["constant", "cosine", "poly", "step"]),
        (f"{SPACE}optim.schedule: [poly, c|", ["constant", "cosine"]),
        (f"{SPACE}model.arch: [Unet, F|", ["FPN", "Segformer"]),
        (f"{SPACE}model.encoder: {{choices: [34|", ["resnet34", "timm-skresnet34"]),
        (f"{SPACE}optim.nesterov: |", ["true", "false"]),
        (f"{SPACE}optim.lr: {{low: 1e-4, |", ["high: ", "log: ", "step: "]),
        (f"{SPACE}optim.lr: {{low: 1e-4, log: |", ["true", "false"]),
        (f"{SPACE}optim.lr: {{prior: {{center: 1e-3, |", ["spread: "]),
        (f"{SPACE}optim.lr:\n    l|\n  optim.name: sgd", ["low: ", "log: "]),
        (f"{DATA}v|", ["val: ", "values: "]),
        (f"{DATA}val: {{frac|", ["fraction: "]),
        (f"{DATA}val:\n    # a comment\n\n    frac|", ["fraction: "]),
        ("pruner:\n  name: med|", ["median", "ended_median", "stock_median"]),
        ("'pruner':\n  name: hy|", ["hyperband"]),
        ("trackers: [wandb, |", ["tensorboard", "mlflow"]),
        ("trackers:\n- |", ["tensorboard", "wandb", "mlflow"]),
        ("trackers:\n  - wandb\n  - m|", ["mlflow"]),
        ("workers: {on: s|", ["slurm"]),
        ("confirm: n|", ["null", "none"]),
    ],
)
def test_what_fits_is_offered_where_it_belongs(text: str, first: list[str]) -> None:
    assert words(text)[: max(1, len(first))] == first


@pytest.mark.parametrize(
    "text",
    [
        "sam|pler: tpe",  # within a word
        "sampler:|",  # a value needs a space
        "sampler: tpe|",
        "sampler: tpe |",
        "# sam|",
        "sampler: tpe  # t|",
        "name: 'a|",
        "name: my st|",
        "seed: |",  # any number
        "\tsam|",
        "no such: |",
        "sampler\n  na|",  # what is above is no key
        "budget: ]|",
        "budget: {[a: |",
        "data: {train: {images: x}} |",
        "space: " + 99 * "[" + "|",
    ],
)
def test_nothing_is_offered_where_nothing_is_known(text: str) -> None:
    assert offered(text) == Offer()


def test_keys_that_are_there_are_not_offered_again() -> None:
    file = "name: x\ntask: segmentation\n|\nspace:\n  seed: 1\n# budget: 1\nsampler: tpe\n"
    there, offer = {"name", "task", "space", "sampler"}, words(file)
    assert "budget: " in offer and "seed: " in offer and not there & {w[:-2] for w in offer}
    assert "low: " not in words(f"{SPACE}optim.lr: {{low: 1e-4, l|")


def test_a_task_has_its_own_words() -> None:
    for task, own, others in (
        ("segmentation", "model.arch: ", "model.decoder: "),
        ("text_detection", "model.decoder: ", "model.arch: "),
    ):
        found = words(f"task: {task}   # a comment\nspace:\n  model.|")
        assert own in found and others not in found
    assert {"model.arch: ", "model.decoder: "} <= set(words("space:\n  model.|"))
    assert words(f"{SPACE}model.arch: |") == list(ARCHS)


def test_what_is_offered_says_what_it_is_for() -> None:
    [stop] = offered("pruner:\n  stop_f|").completions
    assert stop.about.startswith("First epoch that may stop a trial; null = a quarter")
    assert len(stop.about) <= ABOUT and stop.about.endswith("...") and "\n" not in stop.about
    about = {one.word: one.about for one in offered(f"{SPACE}|").completions}
    assert about["optim.lr: "] == "Peak learning rate of decoder and head."
    assert about["optim.schedule: "] == "constant, cosine, poly, step"
    assert about["optim.poly_power: "] == "default: 0.9"
    assert about["train.micro_batch: "].startswith("Images in memory at once; null = found")
    mode = offered(f"{SPACE}data.mode: |")
    assert mode.about.startswith("resize: the whole image, stretched to `resolution`; crop:")
    assert [one.about for one in mode.completions] == ["", ""]


@pytest.mark.parametrize("task", TASKS)
@given(st.data())
def test_a_broken_text_breaks_nothing(task: str, data: st.DataObject) -> None:
    """What is offered has the word in it that ends at the caret."""
    text = study_file(task)
    at, size = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 40))
    noise = data.draw(st.text("ab:{}[],'\"#- \n\t\r.\0é😀", max_size=6))
    text = text[:at] + noise + text[at + size :]
    caret = min(len(text), at + len(noise))
    begun = re.split(r"[^\w.+-]", text[:caret], flags=re.ASCII)[-1].lower()
    for one in complete(text, caret).completions:
        assert begun in one.word.lower()


@pytest.mark.parametrize(
    "text", ["a", "a: a", "a: '\"", "a: {", "a: {a: [", "\n ", "- ", "k: 1\n", "task: ", "#", " "]
)
def test_a_long_text_costs_little(text: str) -> None:
    long = (text * 65536)[:65536]
    began = time.process_time()
    complete(long, len(long))
    assert time.process_time() - began < 1  # s; 0.05 on a core that is not shared
