"""Is the config that a study answers with the best one? Small studies, and each config run again.

    python -m benchmarks.trust --only camvid --record camvid.jsonl
    python -m benchmarks.trust --from camvid.jsonl sroie.jsonl --to benchmarks/trust.md

Three small studies each of CamVid and SROIE, as a user launches them, with their confirmation.
Then the best of each search, and whatever was confirmed, train on further seeds that no choice has
seen; the mean of those counts as what a config is worth.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml
from rich.console import Console

from benchmarks.home import own_home
from benchmarks.report import called, heading, parser, publish, table

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
STUDIES = 3
COMPARED = 4  # of the best by the search, beside the candidates of the confirmation
FURTHER = range(1_000_001, 1_000_005)  # seeds
TRAIN = {"camvid": 64, "sroie": 48}  # the first so many training images

SMALL: dict[str, Any] = {
    "sampler": "tpe",
    "budget": {"trials": 8},
    # of eight trials the default share of 0.3 would pay for two runs
    "confirm": {"top": 2, "seeds": 2, "share": 0.75},
}
CAMVID: dict[str, Any] = {
    "train.epochs": 8,
    "train.batch_size": [4, 8],
    "data.resolution": ["32x48", "48x64"],
    "model.arch": ["Unet", "FPN"],
    "model.encoder": "resnet18",
    "model.encoder_weights": None,
    "optim.lr": {"low": 5e-4, "high": 1e-2, "log": True},
    "optim.encoder_lr_ratio": {"low": 0.3, "high": 1.0, "log": True},
}
SROIE: dict[str, Any] = {
    "train.epochs": 6,
    "train.batch_size": [2, 4],
    "data.resolution": 320,
    "model.encoder": "resnet18",
    "model.encoder_weights": None,
    "model.decoder": ["fpn", "unet"],
    "model.inner": 64,
    "model.out": 16,
    "optim.lr": {"low": 1e-3, "high": 5e-3, "log": True},
    "optim.encoder_lr_ratio": {"low": 0.3, "high": 1.0, "log": True},
}
SPACES = {"camvid": CAMVID, "sroie": SROIE}


def main() -> None:
    """Run the studies that are asked for, or write the report of those that are recorded."""
    given = parser(__doc__ or "")
    given.add_argument("--only", choices=tuple(SPACES), help="one of the data sets")
    given.add_argument("--record", type=Path, help="file to add the studies to, a line each")
    given.add_argument("--from", dest="recorded", type=Path, nargs="+", help="report these")
    options = given.parse_args()
    if options.recorded:
        lines = [line for path in options.recorded for line in path.read_text().splitlines()]
        publish(report([json.loads(line) for line in lines], called("trust")), options.to)
        return
    found = []
    for data in SPACES if options.only is None else (options.only,):
        for number in range(STUDIES):
            with own_home() as folder:
                found.append(study(data, number, folder))
            print(json.dumps(found[-1]), flush=True)
            if options.record is not None:
                with options.record.open("a") as record:
                    record.write(json.dumps(found[-1]) + "\n")
    publish(report(found, called("trust")), options.to)


def study(data: str, number: int, folder: Path) -> dict[str, Any]:
    """Launch one study, and run the configs that are compared on the further seeds."""
    from search.database.store import open_store
    from search.files.artifacts import Artifacts
    from search.findings.answer import answer_of
    from search.launch import launch
    from search.studies.study import open_study
    from search.studies.trial_facts import TrialFacts
    from spaces.spec import StudySpec
    from trainers.tasks import load_data
    from trainers.train import train

    example = yaml.safe_load((EXAMPLES / f"{data}.yaml").read_text())
    name = f"{data}-{number}"
    tree = {"name": name, "task": example["task"], "seed": number, **SMALL, "space": SPACES[data]}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tree | {"data": _data(example["data"], data, folder)}))
    spec = StudySpec.load(path)
    store = open_store(f"sqlite:///{folder / 'store.db'}")
    assert launch(spec, store, Artifacts(folder / "artifacts"), Console(width=160)) == 0
    opened = open_study(store, name)
    answer = answer_of(opened)
    evidence, confirmation = answer.evidence, answer.confirmation
    compared = {trial.number for trial in answer.ranking[:COMPARED]}
    compared |= {candidate.number for candidate in evidence.ranking}
    images = load_data(spec.data)
    further: dict[int, list[float]] = {}
    for trial in answer.ranking:
        if trial.number not in compared:
            continue
        for seed in FURTHER:
            config = opened.config(trial).replace({"train.seed": seed})
            free = opened.space.free()
            with tempfile.TemporaryDirectory() as run:
                result = train(config, images, Path(run), lambda report: None, free=free)
            assert result.value is not None, result.reason
            further.setdefault(trial.number, []).append(round(result.value, 6))
    epochs = sum(TrialFacts.of(trial).epochs or 0 for trial in opened.trials())
    found = {
        "study": name,
        "metric": opened.metric,
        "first": {str(t.number): t.value for t in answer.ranking if t.number in compared},
        "fresh": {str(c.number): c.fresh for c in evidence.ranking},
        "further": {str(trial): values for trial, values in further.items()},
        "winner": answer.trial.number,
        "baseline": evidence.baseline,
        "reported": answer.value,
        "claim": answer.claim,
        "epochs": epochs,
        "epochs_in_full": spec.budget.trials * opened.space.base.train.epochs,
        "confirmation_epochs": confirmation.epochs,
    }
    store.close()
    return found


def _data(example: Mapping[str, Any], data: str, folder: Path) -> dict[str, Any]:
    """The data section with absolute paths, and with fewer training images."""
    sections = dict(example)
    for split in ("train", "val"):
        sections[split] = {
            kind: str((EXAMPLES / place).resolve()) for kind, place in example[split].items()
        }
    if data == "camvid":
        sections["classes"] = str((EXAMPLES / example["classes"]).resolve())
    for kind, place in sections["train"].items():
        (folder / kind).mkdir()
        for file in sorted(Path(place).iterdir())[: TRAIN[data]]:
            (folder / kind / file.name).symlink_to(file)
    return sections | {"train": {kind: str(folder / kind) for kind in sections["train"]}}


def report(found: Sequence[Mapping[str, Any]], command: str) -> str:
    """The Markdown report."""
    answers, configs, rows = [], [], list(_answers(found))
    for one, row in zip(found, rows, strict=True):
        answers.append([one["study"], *row[0]])
        worth = {trial: fmean(values) for trial, values in one["further"].items()}
        for trial in sorted(worth, key=lambda trial: -worth[trial]):
            fresh, further = one["fresh"].get(trial), one["further"][trial]
            roles = [("winner", one["winner"]), ("baseline", one["baseline"])]
            configs.append(
                [
                    one["study"],
                    trial + "".join(f", {role}" for role, number in roles if str(number) == trial),
                    f"{one['first'][trial]:.4f}",
                    "-" if fresh is None else f"{fmean(fresh):.4f}",
                    f"{worth[trial]:.4f} +- {stdev(further):.4f}",
                ]
            )
    lost = [row[1] for row in rows]
    claims = [f"- {one['study']}: {one['claim']}" for one in found]
    without, with_, first, reported = (fmean(column) for column in zip(*lost, strict=True))
    return "\n".join(
        [
            heading("An answer one can trust: each config run again", command),
            f"{len(found)} studies of {SMALL['budget']['trials']} trials, launched as a user does. "
            f"The {COMPARED} best of each search and the candidates of its confirmation then train "
            f"on {len(FURTHER)} further seeds each, whose mean counts as what a config is worth. "
            "*rank*: of the config that is answered with, by that mean, among those compared. "
            "*regret*: how much less it is worth than the best of those. *too high by*: the value "
            "that is reported, less that worth. *without*: the config of the highest one-seed "
            "value. *cost*: the confirmation's epochs, of the search's and of the search's without "
            "early stopping.\n",
            table(
                [
                    "study", "rank without", "rank", "regret without", "regret",
                    "too high by without", "too high by", "cost",
                ],
                answers,
            ),
            f"\nMean regret {without:.4f} without confirmation, {with_:.4f} with it; one seed is "
            f"too high by {first:+.4f}, what is reported by {reported:+.4f}.\n",
            "What each study claimed:\n",
            *claims,
            "\nEach config compared, by its worth:\n",
            table(
                ["study", "trial", "in the search", "fresh seeds", "further seeds, mean +- sd"],
                configs,
            ),
            "",
        ]
    )  # fmt: skip


def _answers(
    found: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[list[str], tuple[float, float, float, float]]]:
    """(Cells of the first table, what they are means of), study by study."""
    for one in found:
        worth = {int(trial): fmean(values) for trial, values in one["further"].items()}
        order = sorted(worth, key=lambda trial: -worth[trial])
        first = {int(trial): value for trial, value in one["first"].items()}
        without, winner = max(first, key=lambda trial: first[trial]), one["winner"]
        regrets = [worth[order[0]] - worth[trial] for trial in (without, winner)]
        too_high = [first[without] - worth[without], one["reported"] - worth[winner]]
        share = one["confirmation_epochs"] / one["epochs"]
        in_full = one["confirmation_epochs"] / one["epochs_in_full"]
        ranks = [f"{order.index(trial) + 1} of {len(order)}" for trial in (without, winner)]
        cells = [*ranks, *(f"{regret:.4f}" for regret in regrets)]
        cells += [*(f"{excess:+.4f}" for excess in too_high), f"{share:.0%}, {in_full:.0%}"]
        yield cells, (*regrets, *too_high)


if __name__ == "__main__":
    main()
