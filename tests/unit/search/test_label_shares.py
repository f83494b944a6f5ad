"""What `segtune init --from` says of a sample of masks and pages: as the preflight counts them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.cli import app
from search.work.preflight import preflight
from spaces.spec import StudySpec
from tests.unit.search.test_layouts import BOX, Drawn
from trainers.data import SegmentationData


@pytest.fixture
def drawn(tmp_path: Path) -> Drawn:
    return Drawn(tmp_path / "data")


def looked_at(drawn: Drawn) -> tuple[str, Path]:
    """What is printed of a data set, and the study file that is written."""
    study = drawn.folder.parent / "study.yaml"
    words = ["init", "--from", str(drawn.folder), "--to", str(study)]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    return answer.output, study


def draw(drawn: Drawn, *masks: list[int]) -> None:
    for index, values in enumerate(masks):
        for split in ("train", "val"):
            drawn.image(f"{split}/images/{index}.png")
            drawn.mask(f"{split}/masks/{index}.png", values)


def shares(said: str) -> dict[str, str]:
    """{class: its share} of the table."""
    return dict(re.findall(r"(?m)^\S (.+?) +\S +(\S+) \S$", said))


def test_shares_are_those_of_the_preflight(drawn: Drawn) -> None:
    """Of `ignore_classes` there is none; names of hostile files stay text."""
    drawn.write("labels.json", '{"0": "road", "1": "[/red] [bold]lane", "2": "void"}')
    draw(drawn, [0, 1, 1, 2], [0, 0, 0, 1], [0, 255])
    said, study = looked_at(drawn)
    assert "pixels of 3 of 3 train masks" in said
    text = study.read_text().replace("encoder_weights: imagenet", "encoder_weights: null")
    study.write_text(text)
    data = preflight(StudySpec.load(study))
    assert isinstance(data, SegmentationData)
    road, lane, _ = (f"{count / sum(data.counts):.3%}" for count in data.counts)
    assert shares(said) == {"class": "share", "road": road, "[/red] [bold]lane": lane, "void": "-"}
    assert (road, lane) == ("66.667%", "33.333%")


def test_of_many_masks_a_sample_is_read_and_said(
    drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.label_shares.MOST", 2)
    draw(drawn, [0, 1], [1, 1, 1, 0], [0, 1])
    said, _ = looked_at(drawn)
    assert "pixels of 2 of 3 train masks" in said  # the first and the last one
    assert shares(said) == {"class": "share", "background": "50.000%", "thing": "50.000%"}


def test_masks_that_do_not_count_have_no_shares(drawn: Drawn) -> None:
    drawn.write("classes.txt", "road\nvoid\n")
    draw(drawn, [1], [1], [1])
    said, _ = looked_at(drawn)
    assert "no pixel of 3 of 3 train masks counts" in said


def test_a_wrong_mask_is_said_and_the_file_is_there_to_be_mended(drawn: Drawn) -> None:
    for split in ("train", "val"):
        drawn.image(f"{split}/0.png", f"{split}/1.png")
        for index, value in enumerate((3, 77)):
            drawn.mask(f"{split}annot/{index}.png", [0, value])
    said, study = looked_at(drawn)
    said = " ".join(said.split())
    assert "what its labels hold is not known, and segtune check will refuse it: " in said
    assert "mask value 77 at row 0, column 1 is no class" in said
    assert StudySpec.load(study).data.names


def test_text_is_told_by_page(drawn: Drawn) -> None:
    for split in ("train", "val"):
        for index in range(2):
            drawn.image(f"{split}/images/{index}.png")
            other = "0,0,8,0,8,2,0,2,###\n" * index
            drawn.write(f"{split}/gt/{index}.txt", f"{BOX}\n{other}")
    said, _ = looked_at(drawn)
    assert "text of 2 of 2 train pages; segtune check reads all" in said
    assert "boxes: 1.5 a page, 1 to 2; 33.3% of them are don't-care" in said
    assert "those that count: 31.2% of the area" in said  # 30x20 of 48x40
    assert "lower than 8 px are 0.0% at data.resolution 640, 0.0% at" in said
