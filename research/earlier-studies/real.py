"""The same once for real: small studies on two halves of CamVid, trained on the CPU from scratch.

    SEGTUNE_DATA=DIR python research/earlier-studies/real.py --to DIR2    # images: DIR/camvid

Five studies of TRIALS trials, one after another: a first one on one half; on the other half a fresh
one and one that begins with the first; and on the first half, in a changed space, again both. Each
pair has one seed of its own. Prints what each had reached after each trial that ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path
from typing import Any

from search.database.store import open_store
from search.studies.study import open_study
from spaces.yamlfile import dump_yaml

TRIALS, EPOCHS = 12, 5
EVERY = 4  # images, of which the first half has every EVERY-th, the other the ones between
CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
SPACE = {
    "train.epochs": EPOCHS,
    "train.batch_size": [4, 8],
    "data.resolution": "64x96",
    "model.arch": "Unet",
    "model.encoder": ["resnet18", "mobilenet_v2"],
    "model.encoder_weights": None,
    "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
}
CHANGED = SPACE | {
    "model.arch": ["Unet", "FPN"],
    "optim.lr": {"low": 5e-4, "high": 1e-2, "log": True},
    "data.augment": ["light", "medium"],
}
STUDIES: tuple[tuple[str, int, int, dict[str, Any], list[str]], ...] = (
    ("first", 0, 0, SPACE, []),
    ("other-fresh", 1, 1, SPACE, []),
    ("other-after", 1, 1, SPACE, ["first"]),
    ("changed-fresh", 0, 2, CHANGED, []),
    ("changed-after", 0, 2, CHANGED, ["first"]),
)
"""(Name, half, seed, space, from_studies)."""


def main() -> None:
    """Run what has not been run, and say what all have reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", type=Path, required=True, help="folder of study files and store")
    to = parser.parse_args().to.resolve()
    to.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{to}/store.db"
    for name, half, seed, space, earlier in STUDIES:
        tree = {
            "name": name,
            "task": "segmentation",
            "seed": seed,
            "data": data(to, half),
            "space": space,
            "from_studies": earlier,
            "budget": {"trials": TRIALS},
            "confirm": "none",
        }
        (to / f"{name}.yaml").write_text(dump_yaml(tree))
        subprocess.run(["segtune", "launch", to / f"{name}.yaml", "--store", url], check=True)
    store = open_store(url)
    for name, *_ in STUDIES:
        study, best, line = open_study(store, name), 0.0, []
        ended = [t for t in study.trials() if t.state.name == "COMPLETE" and t.value is not None]
        for trial in sorted(ended, key=lambda t: t.datetime_complete or 0):
            if (trial.value or 0.0) > best:
                best = trial.value or 0.0
                begun = sum(
                    t.datetime_start <= trial.datetime_complete  # type: ignore[operator]
                    for t in study.trials()
                )
                line.append(f"{best:.4f} (trial {trial.number}, {begun} begun)")
        print(f"| {name} | {', '.join(line)} |")
    store.close()


def data(to: Path, half: int) -> dict[str, Any]:
    """The `data:` section of a half; its files are listed beside the study file."""
    splits = {}
    for split in ("train", "val"):
        folder = Path(os.environ["SEGTUNE_DATA"]).resolve() / "camvid" / split
        images = sorted((folder / "images").iterdir())[half * EVERY // 2 :: EVERY]
        both = [(p, next((folder / "masks").glob(f"{p.stem}.*"))) for p in images]
        file = to / f"{split}-{half}.txt"
        file.write_text("".join(f"{image}\t{mask}\n" for image, mask in both))
        splits[split] = {"list": str(file)}
    return {**splits, "classes": list(CLASSES), "ignore_index": 11}


if __name__ == "__main__":
    main()
