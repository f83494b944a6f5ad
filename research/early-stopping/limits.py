"""What a limit costs a search: trials until the best inside is found, on a surrogate of a table.

    python research/early-stopping/limits.py                       # both tables, 24 seeds
    python research/early-stopping/limits.py --table camvid --seeds 20

A limit of half the parameters of the largest network. The target is what one in fifty random
configs inside of it reaches. Each search draws by the product's own code (search/studies/draws.py),
with its default sampler, and hears of no epoch: what is counted are trials.

inside alone   the space has only the networks inside
counted        the whole space; what is outside is known before a trial begins, as parameters are
measured       the whole space; what is outside is known once a trial of the same network and size
               has begun, has been measured and has ended as `limit`, as with latency
told alone     as `measured`, but nothing is remembered: only the sampler learns, by constraints
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from record import HERE
from search.database.optuna_draft import Draft
from search.studies.draws import draw
from spaces.config import SegmentationConfig, TrialConfig
from spaces.limits import LimitsSpec
from spaces.space import Choice, Space
from spaces.spec import StudySpec
from surrogate import Surrogate, surrogate
from trainers.cost import parameters_of

TABLES = ("camvid", "streets")
RANDOM = 4000  # random configs that the target is told from
SHARE = 0.02  # of those inside reach it
MOST = 150  # trials of a search
MODES = ("inside alone", "counted", "measured", "told alone")


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        trained: trials that trained until one inside reached the target; MOST where none did.
        refused: trials that ended as `limit` until then.
    """

    trained: int
    refused: int


@dataclass(frozen=True)
class Task:
    """A table's surrogate with a limit of half the parameters."""

    spec: StudySpec
    space: Space
    model: Surrogate
    most: float
    target: float

    @classmethod
    def of(cls, table: str) -> Task:
        spec = StudySpec.of(yaml.safe_load((HERE / f"{table}.yaml").read_text()))
        whole, model = spec.search_space(), surrogate(table)
        sizes = [parameters(config) for config in _corners(whole)]
        most = max(sizes) / 2
        rng = optuna.samplers.RandomSampler(seed=0)
        study = optuna.create_study(sampler=rng)
        configs = (whole.sample(study.ask()) for _ in range(RANDOM))
        inside = [model.value(c.flat()) for c in configs if parameters(c) <= most]
        print(
            f"{table}: {len(inside)} of {RANDOM} random configs are inside {most / 1e6:.1f}M "
            f"(networks of {', '.join(f'{size / 1e6:.1f}M' for size in sorted(set(sizes)))})"
        )
        return cls(spec, whole, model, most, float(np.quantile(inside, 1 - SHARE)))

    def inside(self, config: TrialConfig) -> bool:
        return parameters(config) <= self.most

    def only_inside(self) -> Space:
        """The space with only the encoders that are inside; every pair of them must be."""
        keep = sorted({c.flat()["model.encoder"] for c in _corners(self.space) if self.inside(c)})
        dims = {**self.space.dims, "model.encoder": Choice(tuple(keep))}
        base = self.space.base
        if len(keep) == 1:
            del dims["model.encoder"]
            base = base.replace({"model.encoder": keep[0]})
        found = Space(dims, self.space.when, base)
        assert all(map(self.inside, _corners(found))), keep
        return found


def search(task: Task, mode: str, seed: int) -> Found:
    """Search until a config inside reaches the target."""
    limits = LimitsSpec(parameters=int(task.most))
    spec = task.spec.model_copy(update={"limits": limits})
    drawn_from = task.only_inside() if mode == "inside alone" else task.space
    storage = InMemoryStorage()
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE])
    trials: list[FrozenTrial] = []
    known: set[Any] = set()  # keys of configs that were found outside
    refused = 0

    def draft() -> Draft:
        return Draft(storage, study_id, "s", trials)

    def outside(config: TrialConfig, _: Sequence[FrozenTrial]) -> bool:
        if mode == "counted":
            return not task.inside(config)
        return mode == "measured" and _key(config) in known

    trained = 0
    while trained < MOST and refused < 10 * MOST:
        slot = trained + refused if mode == "told alone" else trained  # a refused one returns it
        drawn, config = draw(
            spec, drawn_from, seed, slot, draft, optuna.pruners.NopPruner(), outside
        )
        assert drawn.trial is not None
        if not task.inside(config):
            refused += 1
            known.add(_key(config))
            share = parameters(config) / task.most - 1
            trials.append(_ended(drawn.trial, TrialState.PRUNED, None, share))
            continue
        trained += 1
        noise = random.Random(f"{seed}/{trained}").randrange(2**31)
        told = task.model.value(config.flat(), seed=noise)
        trials.append(_ended(drawn.trial, TrialState.COMPLETE, told, 0.0))
        if task.model.value(config.flat()) >= task.target:
            break
    return Found(trained, refused)


def _ended(trial: FrozenTrial, state: TrialState, value: float | None, share: float) -> FrozenTrial:
    """The trial as the store has it then."""
    return optuna.trial.FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=state,
        value=value,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_start,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={"reason": "limit", "epochs": 0} if value is None else {},
        system_attrs={**trial.system_attrs, "constraints:parameters": share},
        intermediate_values={},
    )


def parameters(config: TrialConfig) -> int:
    """Of a config's network, with CamVid's classes."""
    assert isinstance(config, SegmentationConfig)
    network = config.model.model_copy(update={"init": None, "encoder_weights": None})
    return parameters_of(network, 11, 3)


def _corners(space_: Space) -> list[TrialConfig]:
    return [
        space_.base.replace({"model.arch": arch, "model.encoder": encoder})
        for arch, encoder in space_.model_pairs()
    ]


def _key(config: TrialConfig) -> tuple[Any, ...]:
    flat = config.flat()
    return flat["model.arch"], flat["model.encoder"], flat["data.resolution"]


def main() -> None:
    """Print a table for each recorded table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", choices=TABLES, action="append")
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--verbose", action="store_true", help="also say each search")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for table in args.table or TABLES:
        task = Task.of(table)
        print(f"target {task.target:.4f}, the best of 1 in {round(1 / SHARE)} random ones inside\n")
        print("| search | trials: mean (median) | ratio | refused, mean | never |")
        print("|---|---|---|---|---|")
        found: dict[str, list[Found]] = {mode: [] for mode in MODES}
        for seed in range(args.seeds):
            for mode in MODES:
                found[mode].append(search(task, mode, seed))
            if args.verbose:
                print(seed, *(f"{m}: {found[m][-1]}" for m in MODES), sep="; ", flush=True)
        alone = mean(one.trained for one in found[MODES[0]])
        for mode, searches in found.items():
            trained = [one.trained for one in searches]
            never = sum(one >= MOST for one in trained)
            print(
                f"| {mode} | {mean(trained):.1f} ({median(trained):g}) | "
                f"{mean(trained) / alone:.2f} | {mean(one.refused for one in searches):.1f} | "
                f"{never} |",
                flush=True,
            )
        print()


if __name__ == "__main__":
    main()
