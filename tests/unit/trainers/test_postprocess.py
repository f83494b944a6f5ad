"""Small areas and holes of class maps, beside scipy's; what `decode` asks for reaches the score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from spaces.config import DecodeConfig, SegmentationConfig
from spaces.errors import InputError
from spaces.space import Free
from trainers.data import SegmentationData
from trainers.postprocess import (
    check_postprocessing,
    postprocess,
    postprocessed,
    without_small_areas,
    without_small_holes,
)

NAMES = ["background", "wire", "tree"]
MAPS = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))


@given(found=MAPS, smallest=st.integers(1, 30))
def test_holes_are_those_of_scipy(found: np.ndarray, smallest: int) -> None:
    holes, _ = ndimage.label(ndimage.binary_fill_holes(found == 1) & (found != 1))
    sizes = np.bincount(holes.ravel())
    expected = np.where((holes > 0) & (sizes[holes] < smallest), 1, found)
    assert np.array_equal(without_small_holes(found, 1, smallest), expected)


@given(found=MAPS, smallest=st.integers(1, 30))
def test_small_areas_are_those_of_scipy(found: np.ndarray, smallest: int) -> None:
    areas, _ = ndimage.label(found == 1, structure=np.ones((3, 3)))
    sizes = np.bincount(areas.ravel())
    gone = (areas > 0) & (sizes[areas] < smallest)
    result = without_small_areas(found, 1, smallest)
    if gone.all():  # nothing is around it
        assert np.array_equal(result, found)
        return
    assert np.array_equal(result != found, gone)
    for label in np.unique(areas[gone]):
        around = ndimage.binary_dilation(areas == label, np.ones((3, 3))) & (areas != label)
        [given_to] = np.unique(result[areas == label])
        counts = np.bincount(found[around])
        assert counts[given_to] == counts.max()


def test_a_class_has_its_own_size_and_areas_come_before_holes() -> None:
    found = np.zeros((9, 9), np.uint8)
    found[2:7, 2:7] = 1
    found[4, 4] = 2  # a speck, and a hole
    found[0, 0] = 2
    decode = DecodeConfig(smallest_area={"tree": 2})
    cleaned = postprocess(found, decode, NAMES)
    assert cleaned[4, 4] == 1 and cleaned[0, 0] == 0 and (cleaned != found).sum() == 2
    filled = postprocess(found, DecodeConfig(fill_holes={"wire": 2}), NAMES)
    assert filled[4, 4] == 1 and filled[0, 0] == 2
    assert postprocess(found, DecodeConfig(smallest_area={"tree": 0}), NAMES) is found
    gone = DecodeConfig(smallest_area={"wire": 30}, fill_holes={"background": 9})
    assert (postprocess(found, gone, NAMES)[1:, 1:] == 0).all()


def test_probabilities_of_a_binary_task_become_0_and_1() -> None:
    found = torch.full((2, 5, 5), 0.1)
    found[:, 2, 2], found[1, 2, 3] = 0.65, 0.9
    names = ["background", "wire"]
    off = DecodeConfig(threshold=0.6)
    assert postprocessed(found, off, names, binary=True) is found
    on = off.model_copy(update={"smallest_area": {"wire": 2}})
    result = postprocessed(found, on, names, binary=True)
    assert result.dtype == found.dtype and result.sum() == 2 and result[1, 2, 2:4].sum() == 2


def test_what_cannot_be_done_is_said(data: SegmentationData) -> None:
    def check(decode: dict[str, Any], free: dict[str, Free] | None = None) -> None:
        config = SegmentationConfig.model_validate({"decode": decode})
        check_postprocessing(config, data.spec, free or {})

    with pytest.raises(InputError, match=r"decode\.fill_holes: raod is no class of these data; "
                       r"did you mean road\?"):  # fmt: skip
        check({"fill_holes": {"raod": 5}})
    threshold = {"decode.threshold": Free(0.1, 0.9, 0.1)}
    with pytest.raises(InputError, match="pin it to one number"):
        check({"smallest_area": {"road": 5}}, threshold)
    check({"smallest_area": {"road": 0}}, threshold)
    for wrong in (True, 2.5, -1, "many"):
        with pytest.raises(ValueError, match="smallest_area"):
            check({"smallest_area": {"road": wrong}})
