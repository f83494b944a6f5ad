"""Settings that ended at an end of their range."""

from __future__ import annotations

from typing import Any

import pytest

from spaces.config import SegmentationConfig
from spaces.edges import Edge, edges, edges_said
from spaces.space import Choice, Dimension, Float, Free, Int, Space
from spaces.text_detection import TextDetectionConfig


@pytest.mark.parametrize(
    ("name", "dim", "value", "at"),
    [
        ("optim.lr", Float(1e-4, 1e-2, log=True), 1e-4, True),
        ("optim.lr", Float(1e-4, 1e-2, log=True), 1.09e-4, True),  # 2 % of the decades
        ("optim.lr", Float(1e-4, 1e-2, log=True), 1.2e-4, False),
        ("optim.lr", Float(1e-4, 1e-2, log=True), 9.3e-3, True),
        ("loss.dice_weight", Float(0.5, 5.0), 5.0, True),
        ("loss.dice_weight", Float(0.5, 5.0), 4.8, False),
        ("loss.dice_weight", Float(0.0, 5.0), 0.0, False),  # no weight is below 0
        ("optim.encoder_lr_ratio", Float(0.1, 1.0, step=0.4), 0.9, True),  # its last step
        ("optim.encoder_lr_ratio", Float(0.1, 1.0, step=0.4), 0.5, False),
        ("loss.warmup_epochs", Int(0, 7), 0, False),
        ("loss.warmup_epochs", Int(0, 7), 7, True),
        ("loss.warmup_epochs", Int(0, 7), 6, False),
        ("decode.unclip_ratio", Free(1.0, 3.0, 0.25), 1.0, True),
        ("decode.unclip_ratio", Free(1.0, 3.0, 0.25), 1.25, False),
        ("decode.unclip_ratio", Free(1.0, 3.1, 0.25), 3.0, True),
        ("decode.box_thresh", Free(0.0, 0.9, 0.05), 0.0, False),
        ("decode.box_thresh", Free(0.1, 0.9, 0.05), 0.9, True),
        ("data.resolution", Choice((640, 1280, 1024)), 1280, True),
        ("data.resolution", Choice((640, 1280, 1024)), 1024, False),
        ("data.resolution", Choice((640, 1024)), 1024, False),  # one of two is always an end
        ("model.encoder", Choice(("resnet18", "resnet50", "resnet34")), "resnet18", False),
        ("optim.step_epochs", Choice((None, 5, 10, 20)), 20, False),
        ("model.inner", Int(64, 64), 64, False),
    ],
)
def test_which_values_are_at_an_end(name: str, dim: Dimension, value: Any, at: bool) -> None:
    space = Space({name: dim}, {}, TextDetectionConfig())
    found = edges(space, {**space.base.flat(), name: value})
    assert [edge.name for edge in found] == ([name] if at else [])


def test_a_setting_that_is_not_drawn_has_no_end() -> None:
    dims = {"loss.pixel": Choice(("ce", "focal")), "loss.focal_gamma": Float(0.5, 4.0)}
    space = Space(dims, {"loss.focal_gamma": {"loss.pixel": ("focal",)}}, SegmentationConfig())
    values = {**space.base.flat(), "loss.focal_gamma": 4.0}
    assert edges(space, {**values, "loss.pixel": "ce"}) == []
    assert edges(space, {**values, "loss.pixel": "focal"}) == [
        Edge("loss.focal_gamma", 4.0, 0.5, 4.0)
    ]


def test_ends_in_words() -> None:
    assert edges_said([]) is None
    assert edges_said([Edge("optim.lr", 0.003, 1e-4, 3e-3), Edge("a.b", 1, 1, 3)]) == (
        "2 settings have ended at an end of what was offered, beyond which a better value may "
        "lie: optim.lr 0.003 (0.0001 .. 0.003), a.b 1 (1 .. 3); offer more there"
    )
