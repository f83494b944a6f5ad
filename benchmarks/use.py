"""The winner at work: TTA, post-processing, an ensemble, ONNX, crops; each by its command.

    python -m benchmarks.use --home use/
    python -m benchmarks.use --home use/ --to benchmarks/use.md

A small study each of CamVid and SROIE, as a user launches them; then what a user types to get more
out of them. The report is what these commands print. `--home` keeps studies and exports, and the
same line goes on where it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from benchmarks import trust
from benchmarks.report import called, heading, parser, publish
from benchmarks.study import EXAMPLES

CAMVID: dict[str, Any] = trust.CAMVID | {
    "train.epochs": 10,
    "train.batch_size": 8,
    "data.resolution": ["96x128", "144x192"],
    "data.augment": "light",
    "model.arch": ["Unet", "FPN", "DeepLabV3Plus"],
    "optim.lr": {"low": 5e-4, "high": 5e-3, "log": True},
}
SROIE: dict[str, Any] = trust.SROIE | {
    "train.batch_size": 2,
    "data.resolution": [448, 544],
    "data.augment": "light",
}
STUDIES: dict[str, dict[str, Any]] = {
    "camvid": {"budget": {"trials": 10}, "space": CAMVID},
    "sroie": {"budget": {"trials": 5}, "space": SROIE},
}
MODES = {  # of one exported config: the same input, and as many steps
    "resize": ["data.mode=resize"],
    "crop": ["data.mode=crop", "data.scale=1.0"],
}
LARGE = "--epochs 10 --set data.resolution=192x256"
SEEDS = (1, 2)


def main() -> None:
    """Run what is not there yet, and print what the commands said."""
    given = parser(__doc__ or "")
    given.add_argument("--only", choices=tuple(STUDIES), help="one of the data sets")
    given.add_argument("--home", type=Path, help="folder that keeps studies and exports")
    options = given.parse_args()
    place = nullcontext(options.home) if options.home else tempfile.TemporaryDirectory()
    with place as folder:
        home = Path(folder).resolve()
        home.mkdir(parents=True, exist_ok=True)
        parts = [part(data, home) for data in STUDIES if options.only in (None, data)]
    title = heading("The winner at work", called("use"))
    publish("\n".join([title, *parts]), options.to)


def part(data: str, home: Path) -> str:
    """The study of one data set, and all that is done with its winner; as Markdown."""
    study = home / f"{data}.yaml"
    if not study.exists():
        study.write_text(yaml.safe_dump(study_file(data)))
    best, sizes = f"{data}-best", f"{data}-ensemble"
    said = [
        f"## {data}\n",
        *run(home, f"launch {data}.yaml", shown=False),
        *run(home, f"export {data} --to {best} --onnx"),
        *run(home, f"evaluate {best} --tta all"),
    ]
    if data == "camvid":
        said += run(home, f"evaluate {best} --postprocess all")
    said += run(home, f"ensemble {data} --to {sizes} --size 5")
    said += run(home, f"evaluate {sizes} --against {best}")
    if data == "camvid":
        said += modes(home, best)
    return "\n".join(said)


def modes(home: Path, best: str) -> list[str]:
    """Images resized as a whole beside crops of the same size, at the same steps."""
    said = ["### Whole images and crops\n"]
    for name, changes in MODES.items():
        for seed in SEEDS:
            to = f"{name}-{seed}"
            changed = " ".join(f"--set {change}" for change in changes)
            line = f"train {best}/config.yaml --to {to} --seed {seed} {LARGE} {changed}"
            said += run(home, line, shown=False)
    for name in list(MODES)[1:]:
        for seed in SEEDS:
            said += run(home, f"evaluate {name}-{seed} --against resize-{seed}")
    return said


def study_file(data: str) -> Mapping[str, Any]:
    """The file of a small study, of the images that the example names."""
    example = yaml.safe_load((EXAMPLES / f"{data}.yaml").read_text())

    def absolute(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: absolute(one) for key, one in value.items()}
        return str((EXAMPLES / value).resolve())

    return {
        "name": data,
        "task": example["task"],
        "data": absolute(example["data"]),
        "sampler": "random",  # an ensemble needs models that differ
        "keep_models": 10,
        "confirm": None,
        **STUDIES[data],
    }


def run(home: Path, line: str, *, shown: bool = True) -> list[str]:
    """Run a command that has not succeeded here yet; it and what it said, as Markdown."""
    log = home / "said" / f"{line.replace('/', '_').replace(' ', '_')}.txt"
    if not log.exists():
        print("segtune", line, file=sys.stderr, flush=True)
        log.parent.mkdir(exist_ok=True)
        log.write_text(output(home, line.split()))
    said = ["```", *map(str.rstrip, log.read_text().splitlines()), "```\n"] if shown else []
    return [f"    segtune {line}\n", *said]


def output(home: Path, words: Sequence[str]) -> str:
    """What the program prints; it must succeed."""
    here = os.environ | {"SEGTUNE_HOME": str(home / "home"), "COLUMNS": "120"}
    program = Path(sys.executable).with_name("segtune")
    ran = subprocess.run([program, *words], cwd=home, env=here, text=True, stdout=subprocess.PIPE)
    assert ran.returncode == 0, f"segtune {' '.join(words)} ended with {ran.returncode}"
    return ran.stdout


if __name__ == "__main__":
    main()
