"""`segtune predict`: an exported model over image files; a second start makes nothing twice."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from search.images import Job, find_images
from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from spaces.paths import NO_LOCKS, unfinished
from trainers.checkpoint import weights_digest
from trainers.data import each_decoded
from trainers.dbnet.decode import Detections
from trainers.images import as_rgb, decode_image, pixels_of
from trainers.memory import is_out_of_memory
from trainers.pairs import NPY, SUFFIXES
from trainers.pictures import painted
from trainers.predict import Found, Predictor, Prepared
from trainers.text_evaluate import painted_boxes

RECORD = "predictions.jsonl"
TOGETHER = 8  # images that are read, run and written together, at most
PIXELS_TOGETHER = 40_000_000  # pixels that they have, where they stay as large as they are
SAY_EVERY = 5.0  # seconds between two lines of progress


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
            **({"runtime": "onnx"} if self.predictor.runtime == "onnx" else {}),
        }
        if self.predictor.members:
            head["shares"] = [share for _, share in self.predictor.members]
        record = self.folder / RECORD
        if self.folder.is_dir() and any(self.folder.iterdir()) and not record.exists():
            raise InputError(f"--to {self.folder} holds other files; name a new or empty folder")
        if record.exists() and not overwrite:
            before, *lines = _whole_lines(record)
            usual = type(config)().model_dump(mode="json")["decode"]  # of settings that came later
            if {**before, "decode": {**usual, **before.get("decode", {})}} != head:
                raise InputError(
                    f"--to {self.folder} holds predictions of another model or of other decode "
                    "settings, or by another --runtime; name another folder, or replace them with "
                    "--overwrite"
                )
            self.lines = {line["name"]: line for line in lines}
        left = [job for job in jobs if not self.has(job)]
        for job in left:
            self.lines.pop(job.name, None)
        temporary = unfinished(record)  # without a line that a kill cut off
        whole = [head, *self.lines.values()]
        temporary.write_text("".join(json.dumps(line) + "\n" for line in whole), encoding="utf-8")
        temporary.replace(record)
        return left

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Make the folder, and keep other processes out of it.

        Raises:
            InputError: it is a file, or another process writes there.
        """
        if self.folder.is_file():
            raise InputError(f"--to {self.folder} is a file; name a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise InputError(
                f"--to {self.folder}: another segtune predict writes there; wait for it, or name "
                "another folder"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:  # there two at once are not noticed
                raise
        try:
            yield
        finally:
            os.close(lock)

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
        if line is None or line["image"] != job.image or job.stamp is None:
            return False
        if not job.stamp.items() <= line.items():
            return False
        return all(path.exists() for path in self.paths(job.name))

    def write(self, found: Sequence[tuple[Job, Found]]) -> list[dict[str, Any]]:
        """Write what is wanted of images, and record them as done; return their lines."""
        jobs = [job for job, _ in found]

        def one(index: int, job: Job) -> dict[str, Any]:
            return self._write(job, found[index][1])

        if self.wanted.overlay:  # reads the image once more
            lines = each_decoded(jobs, one)
        else:
            with ThreadPoolExecutor() as pool:
                lines = list(pool.map(one, range(len(jobs)), jobs))
        with (self.folder / RECORD).open("a", encoding="utf-8") as record:
            record.write("".join(json.dumps(line) + "\n" for line in lines))
        return lines

    def _write(self, job: Job, found: Found) -> dict[str, Any]:
        """Write what is wanted of an image, each file whole or not at all; return its line."""
        result, *others = self.paths(job.name)
        prediction = found.prediction
        line: dict[str, Any] = {"name": job.name, "image": job.image, **(job.stamp or {})}
        if isinstance(prediction, Detections):
            _put(result, lambda path: path.write_text(_icdar(prediction), encoding="utf-8"))
            pairs = zip(prediction.outlines, prediction.scores.tolist(), strict=True)
            line["boxes"] = [{"polygon": box.tolist(), "score": score} for box, score in pairs]
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
        image = as_rgb(decode_image(job.image, data))
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
    own = () if predictor.data.channels in (1, 3) else (NPY,)
    jobs = find_images(words, to, (*SUFFIXES, *own))
    output = Output(to, predictor, wanted)
    with output.taken():
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
    times = predictor.pixels_kept
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
    """A line `x1,y1,x2,y2,...` a box, in whole pixels, of four corners as ICDAR 2015 has them."""
    corners = [np.rint(outline).astype(int).ravel() for outline in found.outlines]
    return "".join(",".join(map(str, box)) + "\n" for box in corners)
