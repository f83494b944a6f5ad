"""`segtune predict`: an exported model over image files; a second start makes nothing twice."""

from __future__ import annotations

import glob
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from spaces.paths import unfinished
from spaces.textfile import read_bytes
from trainers.checkpoint import weights_digest
from trainers.data import LIST_BYTES, SUFFIXES, Imaged, decode_image, each_decoded, pixels_of
from trainers.dbnet.decode import Detections
from trainers.memory import is_out_of_memory
from trainers.pictures import painted
from trainers.predict import Found, Predictor, Prepared
from trainers.text_evaluate import painted_boxes

RECORD = "predictions.jsonl"
TOGETHER = 8  # images that are read, run and written together, at most
PIXELS_TOGETHER = 40_000_000  # pixels that they have, where they stay as large as they are
SAY_EVERY = 5.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Job(Imaged):
    """An image file, and the name of what is written of it: a path without its ending."""

    image: str
    name: str


@dataclass(frozen=True)
class Wanted:
    """What is written of each image beside its mask or boxes."""

    overlay: bool = False
    probabilities: bool = False


@dataclass
class Output:
    """The folder that is written, and what it has of this model already.

    It holds `masks/NAME.png` or `boxes/NAME.txt`, `overlays/NAME.png`, `probabilities/NAME.npy`,
    and `predictions.jsonl`: a line on the model, then one on each image.
    """

    folder: Path
    predictor: Predictor
    wanted: Wanted
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)
    """{name: its line} of images that are done."""

    def open(self, jobs: Sequence[Job], overwrite: bool) -> list[Job]:
        """Read what is there, or begin anew; return those that are left to do.

        Raises:
            InputError: the folder is something else, or of another model or settings.
        """
        config = self.predictor.config
        head = {
            "model_sha256": weights_digest(self.predictor.weights),
            "decode": config.model_dump(mode="json")["decode"],
            "classes": self.predictor.data.class_names,
        }
        record = self.folder / RECORD
        if self.folder.is_file():
            raise InputError(f"--to {self.folder} is a file; name a folder")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not record.exists():
            raise InputError(f"--to {self.folder} holds other files; name a new or empty folder")
        if record.exists() and not overwrite:
            before, *lines = _whole_lines(record)
            if before != head:
                raise InputError(
                    f"--to {self.folder} holds predictions of another model or of other decode "
                    "settings; name another folder, or replace them with --overwrite"
                )
            self.lines = {line["name"]: line for line in lines}
        left = [job for job in jobs if not self.has(job)]
        for job in left:
            self.lines.pop(job.name, None)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = unfinished(record)  # without a line that a kill cut off
        whole = [head, *self.lines.values()]
        temporary.write_text("".join(json.dumps(line) + "\n" for line in whole), encoding="utf-8")
        temporary.replace(record)
        return left

    def paths(self, name: str) -> list[Path]:
        """What is written of an image."""
        masks = isinstance(self.predictor.data, SegmentationDataSpec)
        found = [self.folder / (f"masks/{name}.png" if masks else f"boxes/{name}.txt")]
        if self.wanted.overlay:
            found.append(self.folder / "overlays" / f"{name}.png")
        if self.wanted.probabilities:
            found.append(self.folder / "probabilities" / f"{name}.npy")
        return found

    def has(self, job: Job) -> bool:
        """Whether everything that is wanted of an image is there, and the image as it was."""
        line = self.lines.get(job.name)
        if line is None or line["image"] != job.image or not _same_file(line):
            return False
        return all(path.exists() for path in self.paths(job.name))

    def write(self, found: Sequence[tuple[Job, Found]]) -> list[dict[str, Any]]:
        """Write what is wanted of images, and record them as done; return their lines."""
        lines = each_decoded(
            [job for job, _ in found], lambda i, job: self._write(job, found[i][1])
        )
        with (self.folder / RECORD).open("a", encoding="utf-8") as record:
            record.write("".join(json.dumps(line) + "\n" for line in lines))
        return lines

    def _write(self, job: Job, found: Found) -> dict[str, Any]:
        """Write what is wanted of an image, each file whole or not at all; return its line."""
        result, *others = self.paths(job.name)
        prediction = found.prediction
        line: dict[str, Any] = {"name": job.name, "image": job.image, **_stamp(job.image)}
        if isinstance(prediction, Detections):
            _put(result, lambda path: path.write_text(_icdar(prediction), encoding="utf-8"))
            pairs = zip(prediction.boxes.tolist(), prediction.scores.tolist(), strict=True)
            line["boxes"] = [{"polygon": box, "score": score} for box, score in pairs]
        else:
            mask = prediction
            _put(result, lambda path: Image.fromarray(mask).save(path, format="PNG"))
            line["size"] = list(mask.shape)
        if self.wanted.overlay:
            picture = self._overlay(job, prediction)
            _put(others.pop(0), lambda path: picture.save(path, format="PNG"))
        if self.wanted.probabilities:
            assert found.probabilities is not None
            values = found.probabilities
            _put(others.pop(0), lambda path: _save_array(path, values))
        return line

    def _overlay(self, job: Job, prediction: Any) -> Image.Image:
        data = self.predictor.data
        image = decode_image(job.image, data.max_pixels)
        if isinstance(data, SegmentationDataSpec):
            return painted(image, prediction, data.class_names, Path(job.image).name, data.palette)
        return painted_boxes(image, prediction, Path(job.image).name)


def predict_files(
    predictor: Predictor,
    words: Sequence[str],
    to: Path,
    wanted: Wanted,
    *,
    overwrite: bool,
    console: Console,
    complain: Callable[[str], None],
) -> int:
    """Predict what `words` name and write it into `to`.

    Args:
        words: image files, folders (with all below them), lists (.txt, a path a line) or patterns.
        overwrite: also what is there already.
        complain: is told of each image that cannot be predicted.

    Returns:
        1 where there was such an image, else 0.

    Raises:
        InputError: no image is found, or `to` is not a folder for it.
    """
    jobs = find_images(words, to)
    output = Output(to, predictor, wanted)
    left = output.open(jobs, overwrite)
    failed = done = 0
    began = said = time.monotonic()
    for part, errors in _predicted(left, predictor, wanted):
        for error in errors:
            complain(error)
        lines = output.write(part)
        failed, done = failed + len(errors), done + len(lines)
        now = time.monotonic()
        if now - said > SAY_EVERY:
            said = now
            speed = done / (now - began)
            console.print(f"{done + failed} of {len(left)} images, {speed:.1f} a second")
    seconds = max(time.monotonic() - began, 1e-9)
    had = f", {len(jobs) - len(left)} were there already" if len(left) < len(jobs) else ""
    lost = f", {failed} could not be predicted" if failed else ""
    console.print(
        f"{done} images in {seconds:.1f} s, {done / seconds:.1f} a second{had}{lost}: {to}"
    )
    return int(failed > 0)


def find_images(words: Sequence[str], without: Path) -> list[Job]:
    """Return what the words name, without what lies in one folder, and names for the results.

    Names are paths below the folder that all images have in common.

    Raises:
        InputError: a word names nothing, or there is no image.
    """
    files = [Path(os.path.abspath(path)) for word in words for path in _named(word)]
    own = Path(os.path.abspath(without))
    images = [path for path in dict.fromkeys(files) if own not in path.parents]
    if not images:
        raise InputError(f"{', '.join(words)}: no images ({', '.join(SUFFIXES)}) found there")
    folders = [os.path.abspath(word) for word in words if Path(word).is_dir()]
    shared = folders if len(folders) == len(words) else [str(path.parent) for path in images]
    root = os.path.commonpath(shared)
    relative = [os.path.relpath(path, root) for path in images]
    bare = Counter(os.path.splitext(name)[0] for name in relative)
    names = []
    for name in relative:
        stem = os.path.splitext(name)[0]
        names.append(stem if bare[stem] == 1 else name)  # a.jpg beside a.png
    return [Job(str(path), name) for path, name in zip(images, names, strict=True)]


def _named(word: str) -> list[Path]:
    """Files that a word names: one, those of a folder and below it, of a list, of a pattern."""
    path = Path(word)
    if path.is_dir():
        return sorted(
            found
            for found in path.rglob("*")
            if found.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in found.relative_to(path).parts)
        )
    if path.suffix.lower() == ".txt" and path.is_file():
        try:
            lines = read_bytes(path, LIST_BYTES).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise InputError(f"{path}: a list of images must be UTF-8 text") from None
        return [path.parent / x.strip() for x in lines if x.strip() and not x.startswith("#")]
    if path.exists():
        return [path]
    found = sorted(glob.glob(word, recursive=True))
    if not found:
        raise InputError(f"{word}: no file, folder or pattern of image files; check the path")
    return [Path(one) for one in found if Path(one).suffix.lower() in SUFFIXES]


def _predicted(
    jobs: Sequence[Job], predictor: Predictor, wanted: Wanted
) -> Iterator[tuple[list[tuple[Job, Found]], list[str]]]:
    """Yield some images with what is found in them, and why others have nothing.

    The next ones are read meanwhile.
    """
    parts = _parts(jobs, predictor)
    with ThreadPoolExecutor(1) as ahead:
        reading = [ahead.submit(_read, part, predictor) for part in islice(parts, 1)]
        while reading:
            read, errors = reading.pop().result()
            reading += [ahead.submit(_read, part, predictor) for part in islice(parts, 1)]
            found = _run(predictor, [image for _, image in read], wanted)
            pairs = [(job, one) for (job, _), one in zip(read, found, strict=True)]
            errors += [f"{job.image}: out of memory" for job, one in pairs if one is None]
            yield [(job, one) for job, one in pairs if one is not None], errors


def _parts(jobs: Sequence[Job], predictor: Predictor) -> Iterator[list[Job]]:
    """Yield jobs that are done together: images that are not resized take their pixels' memory."""
    data = predictor.config.flat()
    times = max(1.0, data["data.scale"] ** 2) if data.get("data.mode") == "crop" else 0.0
    part: list[Job] = []
    together = 0.0
    for job in jobs:
        pixels = times and times * _pixels(job.image)
        if part and (len(part) == TOGETHER or together + pixels > PIXELS_TOGETHER):
            yield part
            part, together = [], 0.0
        part.append(job)
        together += pixels
    if part:
        yield part


def _pixels(image: str) -> int:
    """Pixels of an image file; 0 of one that cannot be read, of which its reader will say why."""
    with suppress(InputError):
        return pixels_of(image)
    return 0


def _run(
    predictor: Predictor, images: Sequence[Prepared], wanted: Wanted
) -> Sequence[Found | None]:
    """What is found in each image; None for one that memory does not suffice for."""
    try:
        return predictor.run(images, probabilities=wanted.probabilities)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    if len(images) == 1:
        return [None]
    return [one for image in images for one in _run(predictor, [image], wanted)]


def _read(
    jobs: Sequence[Job], predictor: Predictor
) -> tuple[list[tuple[Job, Prepared]], list[str]]:
    """Images as the network takes them, and what is wrong with the others."""
    errors = []
    whole = []
    for job in jobs:
        try:
            pixels_of(job.image)
            whole.append(job)
        except InputError as error:
            errors.append(str(error))

    def one(_: int, job: Job) -> Prepared | str:
        try:
            return predictor.prepare(job.image)
        except InputError as error:
            return str(error)

    prepared = each_decoded(whole, one)
    errors += [image for image in prepared if isinstance(image, str)]
    pairs = zip(whole, prepared, strict=True)
    return [(job, image) for job, image in pairs if not isinstance(image, str)], errors


def _whole_lines(record: Path) -> list[dict[str, Any]]:
    """The lines of a record; a last one that was cut off is left out."""
    found = []
    for text in record.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:
            break
    return found or [{}]


def _stamp(image: str) -> dict[str, int]:
    facts = os.stat(image)
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}


def _same_file(line: dict[str, Any]) -> bool:
    try:
        return _stamp(line["image"]).items() <= line.items()
    except OSError:
        return False


def _put(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _save_array(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def _icdar(found: Detections) -> str:
    """A line `x1,y1,x2,y2,x3,y3,x4,y4` a box, in whole pixels, as ICDAR 2015 has them."""
    corners = np.rint(found.boxes).astype(int).reshape(-1, 8)
    return "".join(",".join(map(str, box)) + "\n" for box in corners.tolist())
