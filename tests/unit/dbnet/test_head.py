"""The network: shapes, the inference path, saving, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainers.dbnet.head import DECODERS, DBNet
from trainers.dbnet.loss import DBLoss, TargetMaps
from trainers.dbnet.targets import make_targets

pytestmark = pytest.mark.slow


def small(decoder: str = "fpn", encoder: str = "resnet18", **kwargs: int) -> DBNet:
    torch.manual_seed(0)
    return DBNet(encoder, decoder, inner=16, out=8, **kwargs)


@pytest.mark.parametrize("decoder", sorted(DECODERS))
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "mit_b0"])
@pytest.mark.parametrize("size", [(64, 96), (33, 70)])
def test_logits_have_the_input_size(encoder: str, decoder: str, size: tuple[int, int]) -> None:
    model = small(decoder, encoder).eval()
    with torch.no_grad():
        probability, threshold = model(torch.randn(2, 3, *size))
    assert probability.shape == threshold.shape == (2, 1, *size)


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_inference_skips_the_threshold_branch(decoder: str) -> None:
    model = small(decoder).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)[0]
        model.threshold.register_forward_hook(lambda *_: pytest.fail("the branch ran"))
        probability, threshold = model(images, with_threshold=False)
    assert threshold is None
    assert torch.equal(probability, expected)


def test_default_widths_are_those_of_the_papers() -> None:
    fpn, unet = DBNet(decoder="fpn").decoder, DBNet(decoder="unet").decoder
    assert [layer.out_channels for layer in fpn.lateral] == [256] * 4
    assert fpn.channels == 4 * 64
    assert [step[-1][0].out_channels for step in unet.steps] == [256, 128, 64]


def test_an_untrained_network_expects_little_text() -> None:
    with torch.no_grad():
        probability, threshold = small().eval()(torch.randn(2, 3, 64, 64))
    assert float(probability.sigmoid().mean()) == pytest.approx(0.1, abs=0.02)
    assert float(threshold.sigmoid().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_round_trip_is_exact(decoder: str, tmp_path: Path) -> None:
    model = small(decoder, in_channels=1).to(memory_format=torch.channels_last)
    model(torch.randn(2, 1, 64, 64))  # moves the batch-norm statistics away from their start
    model.eval()
    images = torch.randn(1, 1, 64, 64)
    model.save_pretrained(tmp_path / "new" / "folder")
    loaded = DBNet.from_pretrained(str(tmp_path / "new" / "folder"))
    assert not loaded.training and loaded.config == model.config
    state, expected = loaded.state_dict(), model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    loaded = loaded.to(memory_format=torch.channels_last)  # the same kernels, hence the same bits
    with torch.no_grad():
        for value, wanted in zip(loaded(images), model(images), strict=True):
            assert torch.equal(value, wanted)


def test_loading_errors_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold config.json and .*, but has no config.json"):
        DBNet.from_pretrained(tmp_path)
    small().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"out": 4}))
    with pytest.raises(ValueError, match=f"{tmp_path} does not hold a DBNet: .*size mismatch"):
        DBNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"depth": 4}))
    with pytest.raises(ValueError, match=r"does not hold a DBNet: .*'depth'"):
        DBNet.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("resnet18", "pan"), {}, r"decoder must be one of \['fpn', 'unet'\], but got 'pan'"),
        (("resnet19", "fpn"), {}, "encoder 'resnet19' with weights None: .*resnet18"),
        (("resnet18", "fpn"), {"encoder_weights": "web"}, "weights 'web'.*imagenet"),
        (("resnet18", "fpn"), {"out": 0}, "at least 1, but got 256 and 0"),
    ],
)
def test_constructor_errors(args: tuple[str, str], kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DBNet(*args, **kwargs)


def test_an_encoder_of_other_strides_is_named() -> None:
    model = small().eval()
    model.encoder.get_submodule("conv1").stride = (4, 4)
    with pytest.raises(
        ValueError, match=r"encoder 'resnet18' must .*, but its last four begin at 1/8"
    ):
        model(torch.zeros(1, 3, 64, 64))


def text_batch() -> tuple[torch.Tensor, TargetMaps]:
    """Two noisy images with a bright block where the text is."""
    images = 0.5 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[0, :, 10:30, 6:56] += 1
    images[1, :, 34:54, 10:40] += 1
    boxes = ([[6, 10], [56, 10], [56, 30], [6, 30]], [[10, 34], [40, 34], [40, 54], [10, 54]])
    targets = [make_targets([torch.tensor(b).double().numpy()], [False], (64, 64)) for b in boxes]
    stacked = (
        torch.stack([torch.from_numpy(m) for m in kind]) for kind in zip(*targets, strict=True)
    )
    return images, TargetMaps(*stacked)


# Losses of steps 0, 4, 8, 12 and 16 on a CPU with AVX-512. Sums in another order (other vector
# widths, two threads) move the later ones by 2 %, as the binarisation is steep.
GOLDEN = {"fpn": [5.484, 5.233, 4.590, 3.270, 2.435], "unet": [5.490, 5.324, 4.992, 4.240, 3.100]}


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_twenty_steps_follow_the_golden_curve(decoder: str) -> None:
    model, loss = small(decoder), DBLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    images, target = text_batch()
    curve = []
    for _ in range(20):
        total, _ = loss(*model(images), target)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        curve.append(float(total.detach()))
    assert all(p.grad is not None and p.grad.any() for p in model.decoder.parameters())
    assert curve[:5:4] == pytest.approx(GOLDEN[decoder][:2], rel=1e-3)
    assert curve[::4] == pytest.approx(GOLDEN[decoder], rel=0.05)
