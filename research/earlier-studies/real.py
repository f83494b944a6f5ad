"""The same once for real: small studies of drawn streets, trained on the CPU from scratch.

    python research/earlier-studies/real.py --to DIR

Five studies of TRIALS trials, one after another: a first one; on other images a fresh one and one
that begins with the first; and on the images of the first, in a changed space, again both. Each
pair has a seed of its own. Prints each new best value, with its trial and how many had begun.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

from search.database.store import open_store
from search.samples.streets import write_streets
from search.studies.study import open_study
from spaces.yamlfile import dump_yaml

TRIALS, EPOCHS = 8, 4
SPACE = {
    "train.epochs": EPOCHS,
    "train.batch_size": [4, 8],
    "data.resolution": "64x80",
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
"""(Name, set of images, seed, space, from_studies)."""


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
    """The `data:` section of one set of drawn streets."""
    folder = write_streets(to / f"data-{half}", train=12, val=6, size=(60, 80), seed=half)
    splits = {
        split: {"images": f"{folder / split}/images", "masks": f"{folder / split}/masks"}
        for split in ("train", "val")
    }
    return {**splits, "classes": f"{folder}/classes.json", "ignore_index": 255}


if __name__ == "__main__":
    main()
