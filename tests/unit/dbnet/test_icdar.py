"""Annotation files: what is read, and that every error names its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainers.dbnet.icdar import SCRIPTS, TextAnnotation, read_coco_text, read_icdar

QUAD = "1,2,30,2,30,14,1,14"
QUAD_ARRAY = [[1, 2], [30, 2], [30, 14], [1, 14]]


def write(folder: Path, content: str | bytes, name: str = "gt_1.txt") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder: Path, content: str | bytes, points: int | None = 4) -> TextAnnotation:
    return read_icdar(write(folder, content), points)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (f"{QUAD},TOTAL", "TOTAL"),
        (f"{QUAD},NO.53 55,57 & 59, JALAN", "NO.53 55,57 & 59, JALAN"),
        (f"{QUAD},12", "12"),
        (f"{QUAD},12,34", "12,34"),
        (f"{QUAD}", ""),
        (f"{QUAD},", ""),
        (f"{QUAD},\u2028 a\x0bb\x1cc ", "\u2028 a\x0bb\x1cc "),  # not the ends of a line
        ("1.0, 2,+30, 2.,30,14,1,14,x", "x"),
    ],
)
def test_one_line(tmp_path: Path, line: str, text: str) -> None:
    found = read(tmp_path, line)
    assert found.texts == [text]
    assert found.polygons[0].tolist() == QUAD_ARRAY


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_bom_newlines_and_dont_care(tmp_path: Path, bom: bytes, newline: str) -> None:
    lines = [f"{QUAD},###", "", f"{QUAD},税额", "   ", f"-5,-5,{QUAD[4:]},####", ""]
    found = read(tmp_path, bom + newline.join(lines).encode())
    assert found.texts == ["###", "税额", "####"]
    assert found.ignore.tolist() == [True, False, True]
    assert found.ignore.dtype == bool


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_page_without_text(tmp_path: Path, content: bytes) -> None:
    found = read(tmp_path, content)
    assert (found.polygons, found.ignore.tolist(), found.texts) == ([], [], [])


@pytest.mark.parametrize(
    ("points", "line", "corners", "text"),
    [
        (5, f"{QUAD},0,8,word", 5, "word"),
        (5, f"{QUAD},0,8,12,34", 5, "12,34"),
        (None, f"{QUAD},word", 4, "word"),
        (None, f"{QUAD}", 4, ""),
        (None, f"{QUAD},12", 4, "12"),
        (None, f"{QUAD},12,34", 4, "12,34"),
        (None, f"{QUAD},0,8,word", 5, "word"),
        (None, f"{QUAD},0,8,word,1", 5, "word,1"),
        (None, f"{QUAD},0,8,-3.5,7,12", 6, "12"),
        (None, f"{QUAD},0,8,56", 5, "56"),  # as documented: numbers look like another point
        (2, "1,2,30,14,word", 4, "word"),
        (2, '1 2 30 14 "a word"', 4, "a word"),
        (2, "1\t2\t30\t14\tword", 4, "word"),
    ],
)
def test_polygons_of_more_points(
    tmp_path: Path, points: int | None, line: str, corners: int, text: str
) -> None:
    found = read(tmp_path, line, points)
    assert (len(found.polygons[0]), found.texts[0]) == (corners, text)


finite = st.floats(-1e4, 1e4).map(lambda v: round(v, 3))
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))


rectangles = st.tuples(finite, finite, st.floats(1.1, 1e4), st.floats(1.1, 1e4)).map(
    lambda v: [
        round(n, 3)
        for n in (*v[:2], v[0] + v[2], v[1], v[0] + v[2], v[1] + v[3], v[0], v[1] + v[3])
    ]
)


@given(st.lists(st.tuples(rectangles, texts)), st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[list[float], str]],
    crlf: bool,
) -> None:
    lines = [",".join(f"{v:.3f}" for v in numbers) + "," + text for numbers, text in rows]
    content = ("\r\n" if crlf else "\n").join(lines)
    found = read(tmp_path_factory.mktemp("icdar"), content)
    scripts = [text.partition(",")[0] for _, text in rows]
    assume(not all(script in SCRIPTS for script in scripts))
    assert found.texts == [text for _, text in rows]
    assert [p.ravel().tolist() for p in found.polygons] == [numbers for numbers, _ in rows]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("1,2,3,4,5,6,7", "must start with 8 comma-separated numbers, but after 7 it ends"),
        ("1,2,x3,4,5,6,7,8,w", "but after 2 field 3 is 'x3'"),
        ("1,2,,4,5,6,7,8,w", "but after 2 field 3 is ''"),
        ("1 2 3 4 5 6 7", "must start with 8 space-separated numbers, but after 7 it ends"),
        ("1;2;3;4;5;6;7;8;w", "comma-separated numbers, but after 0 field 1 is '1;2;3;4;5;6;...'"),
        ("1,2,nan,4,5,6,7,8,w", "field 3 is 'nan'"),
        ("1,2,1e999,4,5,6,7,8,w", "field 3 is '1e999'"),
        ("1,2,\u0663,4,5,6,7,8,w", "field 3 is '\u0663'"),  # an Arabic digit
        ("1,2,1_0,4,5,6,7,8,w", "field 3 is '1_0'"),
    ],
)
@pytest.mark.parametrize("points", [4, None])
def test_bad_lines_are_named(tmp_path: Path, bad: str, message: str, points: int | None) -> None:
    path = write(tmp_path, f"{QUAD},ok\n\n{bad}\n{QUAD},ok\n")
    with pytest.raises(ValueError) as error:
        read_icdar(path, points)
    assert str(error.value).startswith(f"{path} line 3: ") and message in str(error.value)


def test_bad_bytes_and_points(tmp_path: Path) -> None:
    path = write(tmp_path, f"{QUAD},ok\n{QUAD},caf".encode() + b"\xe9\n")
    with pytest.raises(ValueError, match=r"gt_1.txt line 2: .*UTF-8, but holds the byte 0xe9"):
        read_icdar(path)
    with pytest.raises(ValueError, match="at least 2 or None, but got 1"):
        read_icdar(path, 1)


@given(st.text(st.sampled_from("12.,-+ \n\r\ufeffx#e"), max_size=60))
def test_no_content_escapes_as_anything_but_a_value_error(
    tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    path = write(tmp_path_factory.mktemp("icdar"), content)
    for points in (4, None):
        try:
            found = read_icdar(path, points)
        except ValueError as error:
            assert f"{path} line " in str(error)
        else:
            assert all(np.isfinite(polygon).all() for polygon in found.polygons)


# ---------------------------------------------------------------- JSON


def coco(**annotation: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"id": 7, "image_id": 1, **annotation}],
    }


def read_json(folder: Path, content: Any) -> dict[str, TextAnnotation]:
    return read_coco_text(write(folder, json.dumps(content), "text.json"))


def test_coco_lists(tmp_path: Path) -> None:
    content = coco(segmentation=[[1, 2, 30, 2, 30, 14, 1, 14]], text="A,B", iscrowd=0)
    content["annotations"].append({"image_id": 1, "bbox": [1, 2, 29, 12], "iscrowd": 1})
    found = read_json(tmp_path, content)
    assert [p.tolist() for p in found["a.jpg"].polygons] == [QUAD_ARRAY, QUAD_ARRAY]
    assert found["a.jpg"].texts == ["A,B", ""]
    assert found["a.jpg"].ignore.tolist() == [False, True]
    assert found["b.jpg"].polygons == [] and found["b.jpg"].ignore.shape == (0,)


def test_coco_text_objects(tmp_path: Path) -> None:
    quad = [1, 2, 30, 2, 30, 14, 1, 14]
    content = {
        "imgs": {"9": {"id": 9, "file_name": "a.jpg"}},
        "anns": {
            "1": {"image_id": 9, "mask": quad, "legibility": "legible", "utf8_string": "x"},
            "2": {"image_id": 9, "mask": quad, "legibility": "illegible", "utf8_string": None},
            "3": {"image_id": 9, "polygon": [*quad, 0, 8], "utf8_string": "###"},
        },
    }
    found = read_json(tmp_path, content)["a.jpg"]
    assert found.ignore.tolist() == [False, True, True]
    assert found.texts == ["x", "", "###"]
    assert [len(p) for p in found.polygons] == [4, 4, 5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must hold a JSON object, but holds a list"),
        ({"images": []}, "must have annotations or anns, but has"),
        ({"images": 3, "annotations": []}, "images must be a list or an object"),
        ({"images": ["a"], "annotations": []}, r"images\[0\] must be an object, but is 'a'"),
        ({"images": [{"id": 1}], "annotations": []}, r"images\[0\] must have 'file_name'"),
        ({"images": [{"id": 1, "file_name": "a"}] * 2, "annotations": []}, "same id or"),
        (coco(image_id=5, bbox=[0, 0, 1, 1]), r"annotations\[0\]: there is no image with id 5"),
        (coco(), r"annotations\[0\]: bbox must be 4 numbers, but is None"),
        (coco(bbox=[0, 0, 1]), r"annotations\[0\]: bbox must be 4 numbers"),
        (coco(polygon=[1, 2, 3, 4, 5, 6, 7]), "an even count of at least 6"),
        (coco(polygon=[1, 2, 3, 4, 5, "6"]), "finite numbers only"),
        (coco(polygon=[1, 2, 3, 4, 5, float("nan")]), "finite numbers only"),
        (coco(segmentation=[[0] * 8, [0] * 8]), r"one polygon, but has 2 parts"),
        (coco(segmentation={"counts": "", "size": [1, 1]}), r"run-length encoding \(RLE\)"),
    ],
)
def test_json_errors_name_the_entry(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"text.json: .*{message}"):
        read_json(tmp_path, content)


def test_json_syntax_errors_name_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, '{\n"images": [],\n"annotations": [}\n', "text.json")
    with pytest.raises(ValueError, match=r"text.json line 3: not JSON"):
        read_coco_text(path)
    with pytest.raises(ValueError, match=r"text.json: the file must be UTF-8"):
        read_coco_text(write(tmp_path, b'{"\xe9": 1}', "text.json"))
