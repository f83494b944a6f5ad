"""Test-time augmentation: every view comes back to where it was taken."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from spaces.config import SegmentationConfig, Tta
from spaces.errors import InputError
from trainers.models import build_model
from trainers.segmentation import network_logits
from trainers.views import VIEWS, mean_over_views

CPU = torch.device("cpu")


def test_each_value_has_its_views() -> None:
    assert set(VIEWS) == set(get_args(Tta))
    assert all(views[0] == (1.0, ()) for views in VIEWS.values())
    assert [len(views) for views in VIEWS.values()] == [1, 2, 4, 3, 6]
    assert all(len(set(views)) == len(views) for views in VIEWS.values())


@pytest.mark.parametrize("tta", VIEWS)
def test_a_network_that_looks_at_single_pixels_gives_the_same(tta: str) -> None:
    """Of a smooth image, whose pixels between pixels are known."""
    ramp = torch.linspace(0, 1, 40).view(1, 1, -1, 1) + torch.linspace(0, 3, 48)
    images = ramp.repeat(2, 3, 1, 1)
    sizes: list[Any] = []

    def run(batch: Tensor) -> Tensor:
        sizes.append(tuple(batch.shape[-2:]))
        return torch.cat([batch, 1 - batch], dim=1)

    found = mean_over_views(run, images, tta)
    expected = torch.cat([images, 1 - images], dim=1)
    assert found.shape == expected.shape
    assert (found - expected)[..., 2:-2, 2:-2].abs().max() < 1e-3  # of 4
    assert set(sizes) == ({(40, 48), (30, 36), (50, 60)} if "scales" in tta else {(40, 48)})


def _seen(images: Tensor, tta: str, **settings: int) -> list[Tensor]:
    seen: list[Tensor] = []

    def run(batch: Tensor) -> Tensor:
        seen.append(batch)
        return batch

    mean_over_views(run, images, tta, **settings)
    return seen


def test_a_flip_is_of_the_axis_that_it_names() -> None:
    images = torch.rand(1, 3, 4, 6)
    seen = _seen(images, "flips")
    turned = [images, images.flip(3), images.flip(2), images.flip(2).flip(3)]
    assert all(torch.equal(one, other) for one, other in zip(seen, turned, strict=True))


def test_no_side_is_shorter_than_the_network_takes() -> None:
    seen = _seen(torch.rand(1, 3, 16, 64), "scales", smallest=16)
    assert [tuple(view.shape[-2:]) for view in seen] == [(16, 64), (16, 48), (20, 80)]


def test_a_network_of_one_size_is_said() -> None:
    def run(batch: Tensor) -> Tensor:
        assert batch.shape[-1] == 64, "Input width does not match the model (64)"
        return batch

    images = torch.rand(1, 3, 32, 64)
    assert mean_over_views(run, images, "flips").shape == images.shape
    with pytest.raises(
        InputError, match=r"does not run at 0.75 of its input's size, 24x48: Input "
    ):
        mean_over_views(run, images, "scales")


def test_hflip_is_the_mean_of_an_image_and_its_mirror_image() -> None:
    """As it was in earlier versions, to the bit."""
    config = SegmentationConfig().replace(
        {"model.encoder": "resnet18", "model.encoder_weights": None}
    )
    torch.manual_seed(0)
    model = build_model(config.model, 3).eval()
    images = torch.randint(0, 256, (2, 3, 40, 48), dtype=torch.uint8)

    @torch.no_grad()
    def logits(pixels: Tensor, tta: str) -> Tensor:
        return network_logits(model, pixels, config.replace({"decode.tta": tta}), CPU, "fp32")

    both = (logits(images, "none") + logits(images.flip(3), "none").flip(3)) / 2
    assert torch.equal(logits(images, "hflip"), both)
    assert not torch.equal(logits(images, "none"), both)
    assert logits(images, "hflip+scales").shape == both.shape
