"""The plain loops' parts against ours: the comparison is fair only where they do the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from benchmarks.loops import our_config
from benchmarks.plain import Confusion, Files, PlainLoss, Setup, all_of, loaders, lr_factor
from trainers import schedules
from trainers.batches import normalise
from trainers.cache import resize_image
from trainers.images import decode_image
from trainers.losses import IGNORE, SegmentationLoss
from trainers.masks import decode_mask


@pytest.mark.parametrize("epochs", [1, 2, 8])
def test_learning_rates_are_ours(epochs: int, setup: Setup) -> None:
    optim = our_config(replace(setup, epochs=epochs)).optim
    for step in range(23 * epochs):
        assert lr_factor(step, 23, epochs) == schedules.lr_factor(step, 23, epochs, optim)


def test_the_loss_is_ours(setup: Setup) -> None:
    """smp's value and gradient, where the batch holds every class."""
    generator = torch.Generator().manual_seed(0)
    classes = setup.data.classes
    target = torch.randint(0, classes, (2, 16, 16), generator=generator)
    target[0, :3] = IGNORE
    logits = torch.randn(2, classes, 16, 16, generator=generator)
    ours = SegmentationLoss(
        our_config(setup).loss, setup.data.counts, binary=False, device=torch.device("cpu")
    )
    found = []
    for loss in (PlainLoss(IGNORE), lambda x, t: ours(x, t)[0]):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, target)
        value.backward()
        found.append((value.detach(), leaf.grad))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


@pytest.mark.parametrize("sizes", [[(20, 24)] * 3, [(20, 24), (11, 7), (20, 24)]])
def test_the_score_is_miou_at_original_size(sizes: list[tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 8, 8, generator=generator)
    masks = [torch.randint(0, 5, size, generator=generator).byte() for size in sizes]
    masks[1][:2] = 11
    confusion = Confusion(5, 11, torch.device("cpu"))
    confusion.update(logits, masks)
    resized = [
        torch.nn.functional.interpolate(one[None], size=size, mode="bilinear").argmax(1).flatten()
        for one, size in zip(logits, sizes, strict=True)
    ]
    expected = multiclass_jaccard_index(
        torch.cat(resized),
        torch.cat([mask.flatten() for mask in masks]).long(),
        num_classes=5,
        ignore_index=11,
    )
    assert confusion.miou() == pytest.approx(float(expected), abs=1e-6)


def test_a_class_that_is_nowhere_does_not_count() -> None:
    confusion = Confusion(3, 255, torch.device("cpu"))
    logits = torch.tensor([5.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    confusion.update(logits, [torch.zeros(4, 4, dtype=torch.uint8)])
    assert confusion.miou() == 1.0


def test_files_are_read_as_ours_are(setup: Setup) -> None:
    spec, size = setup.data.spec, setup.size
    for split in ("train", "val"):
        files = Files(setup, split, augment=False)
        sample = setup.data.split(split)[3]
        image, mask = files[3]
        pixels = torch.tensor(resize_image(decode_image(sample.image, spec), size))
        expected = normalise(
            pixels.permute(2, 0, 1)[None], torch.device("cpu"), torch.contiguous_format
        )
        torch.testing.assert_close(image[None], expected)
        whole = torch.tensor(decode_mask(sample.mask, spec))
        if split == "val":
            assert torch.equal(mask, whole)
        else:
            assert mask.shape == size
            assert set(mask.unique().tolist()) <= set(whole.unique().tolist())


def test_loaders_shuffle_and_augment_train_alone(setup: Setup) -> None:
    torch.manual_seed(0)
    train, val = loaders(setup, pinned=False)
    plain, _ = all_of(Files(setup, "train", augment=False), torch.device("cpu"))
    batches = list(train())
    assert [len(images) for images, _ in batches] == [8, 8, 2]
    seen = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1)
    assert seen.shape == plain.shape and not torch.allclose(seen, plain)
    assert batches[0][1].dtype == torch.int64 and batches[0][1].shape == (8, *setup.size)
    kept, _ = all_of(Files(setup, "val", augment=False), torch.device("cpu"))
    ((images, masks),) = val()
    assert torch.equal(images.permute(0, 2, 3, 1), kept)
    assert [mask.shape for mask in masks] == [(40, 48)] * 4
