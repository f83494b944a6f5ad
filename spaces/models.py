"""Which architectures and encoders of segmentation_models_pytorch 0.6 go together.

The table was measured by building and running every pair (tests/unit/test_models.py does it again
for a sample); it lives here, without torch, so that an impossible pair cannot even be drawn.
"""

from __future__ import annotations

from spaces.errors import did_you_mean

ARCHS = (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PAN",
    "UPerNet",
    "Segformer",
    "DPT",
)

_ENCODERS = """
resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x4d resnext101_32x8d
resnext101_32x16d resnext101_32x32d resnext101_32x48d dpn68 dpn68b dpn92 dpn98 dpn107 dpn131
vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn senet154 se_resnet50 se_resnet101
se_resnet152 se_resnext50_32x4d se_resnext101_32x4d densenet121 densenet169 densenet201
densenet161 inceptionresnetv2 inceptionv4 efficientnet-b0 efficientnet-b1 efficientnet-b2
efficientnet-b3 efficientnet-b4 efficientnet-b5 efficientnet-b6 efficientnet-b7 mobilenet_v2
xception timm-efficientnet-b0 timm-efficientnet-b1 timm-efficientnet-b2 timm-efficientnet-b3
timm-efficientnet-b4 timm-efficientnet-b5 timm-efficientnet-b6 timm-efficientnet-b7
timm-efficientnet-b8 timm-efficientnet-l2 timm-tf_efficientnet_lite0 timm-tf_efficientnet_lite1
timm-tf_efficientnet_lite2 timm-tf_efficientnet_lite3 timm-tf_efficientnet_lite4 timm-skresnet18
timm-skresnet34 timm-skresnext50_32x4d mit_b0 mit_b1 mit_b2 mit_b3 mit_b4 mit_b5 mobileone_s0
mobileone_s1 mobileone_s2 mobileone_s3 mobileone_s4
"""
ENCODERS = tuple(_ENCODERS.split())
"""smp's own encoders; any timm model is one too, under `tu-` and its name."""

TIMM = "tu-"

_NO_DILATION = ("vgg", "densenet", "inceptionresnetv2", "inceptionv4", "xception", "tu-hrnet")

_INCOMPATIBLE: dict[str, tuple[tuple[str, ...], str]] = {
    "DeepLabV3": (_NO_DILATION, "it needs an encoder that can be dilated"),
    "DeepLabV3Plus": (_NO_DILATION, "it needs an encoder that can be dilated"),
    "PAN": (_NO_DILATION, "it needs an encoder that can be dilated"),
    "UnetPlusPlus": (("mit_",), "it has no form for Mix Transformers"),
    "Linknet": (("mit_",), "it has no form for Mix Transformers"),
}

_MIN_BATCH = {"DeepLabV3": 2, "DeepLabV3Plus": 2, "PAN": 2, "UPerNet": 2}
_MIN_SIDE = {"PAN": 128}


def weights_argument(encoder: str, weights: str | None) -> str | bool | None:
    """Return what smp wants as the weights of an encoder: of timm's own a yes or None, no name.

    Raises:
        KeyError: a timm encoder has one set of weights, which is called imagenet here.
    """
    if weights is None or not encoder.startswith(TIMM):
        return weights
    if weights != "imagenet":
        raise KeyError(f"timm's {encoder} has no {weights!r} weights; known: imagenet")
    return True


def unknown_model(setting: str, name: str) -> str | None:
    """Return what is wrong with a name for `model.arch` or `model.encoder` that is in no table.

    Timm encoders (`tu-...`) pass here; the preflight builds them before a study starts.
    """
    if setting == "model.arch":
        if name in ARCHS:
            return None
        hint = did_you_mean(name, ARCHS) or f"; known: {', '.join(ARCHS)}"
        return f"unknown architecture {name}{hint}"
    if name in ENCODERS or name.startswith("tu-"):
        return None
    hint = did_you_mean(name, ENCODERS) or "; see the encoders of segmentation_models_pytorch"
    return f"unknown encoder {name}{hint}"


def incompatibility(arch: str, encoder: str) -> str | None:
    """Return why the pair cannot be built, or None where it can."""
    if message := unknown_model("model.arch", arch) or unknown_model("model.encoder", encoder):
        return message
    if arch == "DPT" and not encoder.startswith("tu-"):
        return "it takes timm vision transformers (tu-...) only"
    prefixes, reason = _INCOMPATIBLE.get(arch, ((), ""))
    return reason if encoder.startswith(prefixes) and prefixes else None


def min_batch(arch: str) -> int:
    """Return the smallest batch that the architecture trains on (pooled batch norm needs two)."""
    return _MIN_BATCH.get(arch, 1)


def min_side(arch: str) -> int:
    """Return the shortest input side, in pixels, that the architecture takes."""
    return _MIN_SIDE.get(arch, 16)
