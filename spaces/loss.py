"""The loss section of a segmentation's config, and what it shares with that of text detection."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spaces.settings import Section

Weighting = Literal["fixed", "uncertainty", "gradnorm"]
"""Of the terms of a loss, after the warm-up. fixed: as the config says; the others begin there and
are learned. uncertainty: a term counts the less the larger it is (Kendall et al. 2018); gradnorm:
the gradients of all terms become equally large (Chen et al. 2018)."""


class ClassWeightsConfig(Section):
    """Class weights of the pixel loss, from the pixels of the train split."""

    method: Literal["none", "inverse_freq", "sqrt_inv_freq", "effective_number"] = "none"
    max_ratio: float = Field(10.0, ge=1, le=1e6)
    """Weights are clipped to [1 / max_ratio, max_ratio] around their mean of 1."""
    stage_epochs: int = Field(0, ge=0)
    """For this many first epochs the tighter `stage_max_ratio` holds (two-stage clipping)."""
    stage_max_ratio: float = Field(2.0, ge=1, le=1e6)


class LossConfig(Section):
    """The loss mix: (1 - share) * pixel + share * region, share 0 in warm-up and then ramping."""

    pixel: Literal["ce", "focal", "bce"] = "ce"
    region: Literal["dice", "tversky", "jaccard", "lovasz"] = "dice"
    region_share: float = Field(0.4, ge=0, le=1)
    warmup_epochs: int = Field(5, ge=0)
    """Epochs of pixel loss alone."""
    ramp_epochs: int = Field(10, ge=0)
    """Epochs in which the region share rises linearly to `region_share`."""
    smooth: float | Literal["schedule"] = "schedule"
    """Smoothing term of dice, tversky and jaccard; `schedule` is 10, from epoch 10 on 5, from
    epoch 20 on 1."""
    squared: bool = True
    """Squared denominator, p^2 + t^2 (Milletari et al. 2016), of dice and jaccard."""
    tversky_alpha: float = Field(0.3, ge=0, le=1)
    """Weight of false positives (Salehi et al. 2017)."""
    tversky_beta: float = Field(0.7, ge=0, le=1)
    """Weight of false negatives."""
    focal_gamma: float = Field(2.0, ge=0, le=10)
    focal_alpha: float | None = Field(None, ge=0, le=1)
    """Weight of the positive class of a binary focal loss (Lin et al. 2017); null = none."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    weighting: Weighting = "fixed"
    gradnorm_alpha: float = Field(1.5, ge=0, le=10)
    """gradnorm: how much more a term counts that is behind the others; 0 = no more."""
    normalize: Literal["none", "ema"] = "none"
    """`ema` divides each term by its running mean, so that the share is a share of effect."""
    ema_decay: float = Field(0.99, ge=0, lt=1)
    class_weights: ClassWeightsConfig = ClassWeightsConfig()

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if isinstance(self.smooth, float) and not 0 <= self.smooth <= 1e6:
            raise ValueError(f"smooth must be in 0..1e6 or 'schedule', but got {self.smooth}")
        if self.tversky_alpha + self.tversky_beta <= 0:
            raise ValueError("tversky_alpha + tversky_beta must be above 0")
        return self
