"""The test split of a study: scored once, each look counted, and never in the way of a result."""

from __future__ import annotations

import json
import re
import shutil
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from search.cli import app
from search.database.store import Store, open_store
from search.files.artifacts import Artifacts
from search.findings.export import export_study
from search.findings.facts import summary
from search.findings.manifest import check_export
from search.findings.report import report_text
from search.findings.scoring import record_evaluation
from search.samples.streets import write_streets
from search.studies.looks import Look, add_look, looks_of
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume, open_study
from search.studies.trial_facts import TrialFacts
from spaces.errors import InputError
from spaces.run_config import load_run_config
from spaces.spec import StudySpec
from tests.fake_child import report
from tests.stores import small_study, sqlite_too, worker_too
from trainers.checkpoint import save_model
from trainers.image_counts import ImageCounts
from trainers.tasks import evaluate, load_data, make_task

BASELINE, WINNER = 0, 1
VALUES = {BASELINE: 0.30, WINNER: 0.35}


@dataclass
class Kept:
    """A study of two trials whose weights nobody has trained, and its data with a test split."""

    study: Study
    artifacts: Artifacts
    folder: Path

    @property
    def test(self) -> Path:
        return self.folder / "data" / "test"

    def export(self, to: str = "best", *given: Any, **more: Any) -> dict[str, Any]:
        """Export, and return the provenance."""
        export_study(self.study, self.artifacts, self.folder / to, *given, **more)
        facts: dict[str, Any] = json.loads((self.folder / to / "provenance.json").read_text())
        return facts

    def run(self, *words: str) -> str:
        """What a command says."""
        place = ("--to", str(self.folder / "best"), "--artifacts", str(self.folder / "artifacts"))
        url = self.study.store.engine.url.render_as_string(hide_password=False)
        answer = CliRunner().invoke(app, [*words, *place], env={"SEGTUNE_STORE": url})
        assert answer.exit_code == 0, answer.output
        return answer.output

    def evaluate(self, store: str | None, *settings: str) -> list[str]:
        """What `segtune evaluate best --data test --store STORE` says of its look."""
        best = self.folder / "best"
        spec, config = load_run_config(best / "config.yaml")
        found = evaluate(best / "model", config, load_data(spec), "test", best / "pictures")
        return record_evaluation(best, spec, config, [found], settings, store)


@pytest.fixture
def kept(store: Store, tmp_path: Path) -> Kept:
    data = write_streets(tmp_path / "data", train=6, val=3, size=(40, 48))
    write_streets(tmp_path / "more", train=0, val=4, size=(40, 48), seed=1)
    shutil.move(tmp_path / "more" / "val", data / "test")
    text = small_study(data, name="small").replace(
        "  classes:",
        f"  test: {{images: {data}/test/images, masks: {data}/test/masks}}\n  classes:",
    )
    (tmp_path / "study.yaml").write_text(text)
    spec = StudySpec.load(tmp_path / "study.yaml")
    checked = load_data(spec.data)
    study = create_or_resume(store, spec, checked.fingerprint, None)
    found = Kept(study, Artifacts(tmp_path / "artifacts"), tmp_path)
    for number, value in VALUES.items():
        claim = study.slots.claim(study.ask)
        assert claim is not None and claim.trial_number == number
        config = study.config(study.trial(number))
        task = make_task(config, checked, torch.device("cpu"), "fp32", {})
        torch.manual_seed(number)
        workdir = found.artifacts.workdir(study, number)
        workdir.mkdir(parents=True)
        counts = ImageCounts(torch.ones(3, 8, 3, dtype=torch.int64).numpy())
        save_model(workdir, 1, task.build_model(), counts)
        assert study.report(claim, report(1, value, classes=8)) is not None
        facts = TrialFacts(epochs=1, best_epoch=1).at_end()
        origin = {"origin": "a recipe"} if number == BASELINE else {}
        assert study.slots.end(claim, Result("COMPLETE", value, "completed", {**facts, **origin}))
    return found


@sqlite_too
def test_an_export_scores_once_and_counts_each_look(kept: Kept) -> None:
    first = kept.export()["test"]
    assert first["looks"] == 1 and first["images"] == 4 and first["missing"] is None
    assert [first[name]["trial"] for name in ("score", "baseline")] == [WINNER, BASELINE]
    spec, config = load_run_config(kept.folder / "best" / "config.yaml")
    model = kept.folder / "best" / "model"
    alone = evaluate(model, config, load_data(spec), "test", kept.folder / "pictures")
    assert first["score"]["value"] == pytest.approx(alone.scores.metric, abs=1e-9)
    low, high = first["score"]["interval"]
    assert low < first["score"]["value"] < high and first["score"]["val"] == VALUES[WINNER]
    assert first["score"]["model_sha256"] != first["baseline"]["model_sha256"]
    shutil.rmtree(kept.test)  # the same weights are not scored again
    second = kept.export("again")["test"]
    assert second["looks"] == 2
    told = ("score", "baseline", "difference")
    assert [second[name] for name in told] == [first[name] for name in told]
    looks = looks_of(kept.study)
    assert len(looks) == 2 and all(look.by.count("@") == 1 for look in looks)
    # what is shown later is no look
    found = summary(kept.study)
    assert "the test split was looked at 2 times" in found["says"]
    assert len(found["test_looks"]) == 2
    for form in ("md", "html"):
        text = report_text(kept.study, form, kept.artifacts)
        assert "On the test split" in text and f"{first['score']['value']:.4f}" in text
        assert "looked at 2 times" in text and text.count(looks[0].when[:10]) >= 2
    assert len(looks_of(kept.study)) == 2


@worker_too
def test_nothing_is_read_where_it_is_not_asked_for(kept: Kept) -> None:
    assert "test:" not in kept.run("export", "small", "--no-test")
    assert "test:" not in kept.run("export", "small", "--trial", str(BASELINE))
    assert looks_of(kept.study) == [] and "test split" not in " ".join(summary(kept.study)["says"])
    said = kept.run("export", "small")
    assert f"\ntest: trial {WINNER} has mIoU 0." in said and "was looked at once\n" in said


def test_a_baseline_without_weights_is_said(kept: Kept) -> None:
    shutil.rmtree(kept.artifacts.workdir(kept.study, BASELINE))
    facts = kept.export()["test"]
    assert facts["baseline"] is None and facts["difference"] is None
    assert facts["missing"].startswith(f"the weights of trial {BASELINE} are not in ")
    assert any("no baseline beside it" in line for line in summary(kept.study)["says"])


def test_configs_are_exported_without_weights(kept: Kept) -> None:
    configs = {n: kept.study.config(kept.study.trial(n)) for n in VALUES}
    best = kept.folder / "best" / "config.yaml"
    said = kept.run("export", "small", "--config-only")
    assert f"the config of trial {WINNER}, which had mIoU 0.3500 on val\n" in said
    assert load_run_config(best)[1] == configs[WINNER] and not (best.parent / "model").exists()
    # a trial that was named, and whose weights are gone; those of the winner must be there
    for number in VALUES:
        shutil.rmtree(kept.artifacts.workdir(kept.study, number))
    said = kept.run("export", "small", "--trial", str(BASELINE))
    assert "which had mIoU 0.3000 on val; its weights are not here" in said
    assert load_run_config(best)[1] == configs[BASELINE]
    with pytest.raises(InputError, match=r"are not in .*; --config-only leaves them out"):
        kept.export()
    said = kept.run("export", "small", "--all-configs")
    assert "2 configs; next: segtune train" in said and not best.exists()
    for number, config in configs.items():
        assert load_run_config(best.with_name(f"trial-{number}.yaml"))[1] == config
    trials = json.loads((best.parent / "provenance.json").read_text())["trials"]
    assert trials["trial-1.yaml"] == {"trial": 1, "value": 0.35, "reason": "completed"}
    assert looks_of(kept.study) == []


def test_onnx_is_scored_on_val_and_predicts_the_same(kept: Kept) -> None:
    said = kept.run("export", "small", "--onnx", "--no-test")
    assert re.search(r"model\.onnx has mIoU (0\.\d{4}) on val, torch \1; their prob", said)
    best = kept.folder / "best"
    assert check_export(best) == []
    card = (best / "README.md").read_text()
    assert "- Input `images`: bytes (batch, 32, 32, 3) in RGB" in card
    [found] = json.loads((best / "provenance.json").read_text())["onnx"]
    assert abs(found["score"] - found["torch_score"]) < 1e-3 and found["difference"] < 1e-3
    images = str(kept.test / "images")
    masks = []
    for runtime in ("torch", "onnx"):
        to = kept.folder / runtime
        words = ["predict", str(best), images, "--to", str(to), "--runtime", runtime]
        assert CliRunner().invoke(app, words).exit_code == 0
        masks.append({path.name: path.read_bytes() for path in (to / "masks").iterdir()})
    assert masks[0] == masks[1] and len(masks[0]) == 4
    mixed = CliRunner().invoke(app, [*words[:-1], "torch"])
    assert mixed.exit_code == 2 and "by another --runtime" in mixed.output
    assert looks_of(kept.study) == []


def test_onnx_that_cannot_be_scored_leaves_nothing_and_is_no_look(kept: Kept) -> None:
    first, second = sorted((kept.folder / "data" / "val" / "images").iterdir())[:2]
    shutil.copy(first, second)
    with pytest.raises(InputError, match="--onnx: the data of study small, on which"):
        kept.export(onnx=True)
    words = ["export", "small", "--to", str(kept.folder / "best"), "--config-only", "--onnx"]
    refused = CliRunner().invoke(app, words)
    said = " ".join(refused.output.split())
    assert refused.exit_code == 2 and "--config-only and --onnx exclude each other" in said
    assert looks_of(kept.study) == [] and not (kept.folder / "best").exists()


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_other_data_are_refused(kept: Kept, harm: str) -> None:
    first, second = sorted((kept.test / "images").iterdir())[:2]
    if harm == "changed":
        shutil.copy(kept.test / "images" / first.name, second)
        message = "study small cannot be scored on test: its data are not those"
    else:
        shutil.rmtree(kept.test)
        message = "the test split cannot be scored: data.test.images: "
    with pytest.raises(InputError, match=rf"{message}.*--no-test"):
        kept.export()
    assert looks_of(kept.study) == [] and not (kept.folder / "best").exists()
    assert kept.export(test=False)["trial"] == WINNER


@worker_too
def test_an_evaluation_is_a_look_of_its_study(kept: Kept, store_url: str) -> None:
    kept.export()
    interval, counted = kept.evaluate(store_url, "decode.threshold=0.4")
    assert interval.startswith("95% interval over its 4 images: 0.")
    assert counted == "the test split was looked at 2 times"
    [export, by_hand] = looks_of(kept.study)
    assert by_hand.score.settings == ("decode.threshold=0.4",) and by_hand.score.val is None
    assert by_hand.score.interval == export.score.interval


def test_an_evaluation_needs_no_store(
    kept: Kept, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.export(test=False)
    monkeypatch.setenv("SEGTUNE_HOME", str(tmp_path / "fresh"))
    monkeypatch.delenv("SEGTUNE_STORE", raising=False)
    said = "not recorded as a look at the test split: "
    assert kept.evaluate(None)[-1] == f"{said}there is no store on this machine; name the " + (
        "study's with --store"
    )
    assert not (tmp_path / "fresh" / "postgres").exists()
    away = kept.evaluate("postgresql://ana@127.0.0.1:1/none")[-1]
    assert away.startswith(said) and "cannot be reached" in away
    other = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    other.close()
    assert f"{said}no study small in " in kept.evaluate(f"sqlite:///{tmp_path / 'other.db'}")[-1]
    provenance = kept.folder / "best" / "provenance.json"
    facts = json.loads(provenance.read_text())
    provenance.write_text(json.dumps({**facts, "study_uid": "0" * 32}))
    assert "has another study of the name small" in kept.evaluate(store_url)[-1]
    provenance.write_text(json.dumps(facts))
    (kept.test / "masks" / "street_0000.png").write_bytes(
        (kept.test / "masks" / "street_0001.png").read_bytes()
    )
    assert "these are not the data that study small began with" in kept.evaluate(store_url)[-1]
    provenance.write_text('{"metric": "mIoU"}')  # as `segtune train` writes it
    assert kept.evaluate(store_url)[-1].endswith("was not exported from a study")
    assert looks_of(kept.study) == []


@sqlite_too
def test_looks_at_once_are_all_counted(kept: Kept, store_url: str) -> None:
    look = Look.model_validate(kept.export()["test"])
    start, told = threading.Barrier(4), []

    def several() -> None:
        with closing(open_store(store_url)) as opened:
            study = open_study(opened, "small")
            start.wait()
            told.extend(add_look(study, look.again()) for _ in range(5))

    threads = [threading.Thread(target=several) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [*range(2, 22)]
    assert len(looks_of(kept.study)) == 21
