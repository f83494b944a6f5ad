"""The report: what it says, that it needs nothing from outside, and that it stays small."""

from __future__ import annotations

import datetime
import html.parser
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from markdown_it import MarkdownIt
from optuna.trial import TrialState, create_trial
from PIL import Image
from plotly.offline import get_plotlyjs
from typer.testing import CliRunner, Result

from search.cli import app
from search.database.store import open_store
from search.files.artifacts import Artifacts
from search.findings.facts import Facts, gather
from search.findings.markup import Table, to_html
from search.findings.ranking import judged, ranked
from search.findings.report import (
    PICTURE_BYTES,
    best_trials,
    leaderboard,
    report_blocks,
    report_text,
    write_report,
)
from search.findings.search_graphs import slices
from search.findings.thumbnails import thumbnails
from search.studies.study import Study, open_study
from search.templates import asset
from spaces.errors import InputError
from spaces.spec import StudySpec
from trainers.report import EpochReport, Losses

LIMIT = 6_000_000  # bytes
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
TASKS = ("segmentation", "text_detection")
GRAPHS = {
    "segmentation": {"per-class-iou"},
    "text_detection": {"box-thresh"},
}
COMMON = {"history", "value-against-cost", "early-stopping", "loss-parts"}
SECTIONS = (
    "Best config", "What matters", "Why trials ended", "Leaderboard", "The search",
    "Setting by setting", "What early stopping saved", "Health alarms", "The best trials",
    "How to reproduce",
)  # fmt: skip


class Page(html.parser.HTMLParser):
    """A parsed report: tags, attributes, and the words of each tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)
            self.words.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.words[tag][-1] += data


@pytest.fixture(scope="module", params=TASKS)
def study(request: pytest.FixtureRequest, hostile_stores: dict[str, str]) -> Iterator[Study]:
    """A study of each task with an ending of each kind, whose names are hostile."""
    store = open_store(hostile_stores[request.param])
    yield open_study(store, f"scripted-{request.param}")
    store.close()


@pytest.fixture(scope="module")
def page(study: Study) -> tuple[str, Page]:
    text = report_text(study, "html", Artifacts(Path("nowhere")))
    return text, Page(text)


def test_a_report_has_every_section_and_graph(study: Study, page: tuple[str, Page]) -> None:
    headings = page[1].words["h2"]
    assert [next(h for h in headings if h.startswith(name)) for name in SECTIONS] == headings
    assert page[1].words["h1"] == [f"{study.spec.name}: {study.spec.task.replace('_', ' ')}"]
    graphs = {
        str(attrs["id"]) for _, attrs in page[1].tags if attrs.get("class") == "plotly-graph-div"
    }
    slices = {f"slice-{number}" for number in range(6)}
    assert graphs == COMMON | GRAPHS[study.spec.task] | slices


def test_a_report_asks_for_nothing_from_outside(page: tuple[str, Page]) -> None:
    text, parsed = page
    assert len(text.encode()) < LIMIT
    for tag, attrs in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attrs.get(name) or "data:").startswith(("data:", "#")), attrs
    [policy] = [
        str(attrs["content"])
        for _, attrs in parsed.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; ")
    sources = set(re.findall(r"[\w'-]+:?", policy.replace(";", " ")))
    assert not sources & {"http:", "https:", "'self'", "'unsafe-eval'"}
    style = parsed.words["style"][0]
    assert "url(" not in style and "@import" not in style and "@page" in style
    assert text.count("plotly.js v") == 1  # embedded, and once


def test_what_users_have_named_cannot_run(study: Study, page: tuple[str, Page]) -> None:
    text, parsed = page
    graphs = sum(attrs.get("class") == "plotly-graph-div" for _, attrs in parsed.tags)
    assert len(parsed.words["script"]) == graphs + 2  # plotly.js first, printing last
    assert "<script>alert" not in text
    assert not [tag for tag, _ in parsed.tags if tag == "a"]
    if study.spec.task == "segmentation":
        assert HOSTILE in "".join(parsed.words["pre"])  # the study file shows it as it is


def test_the_leaderboard_and_the_savings_are_right(study: Study, page: tuple[str, Page]) -> None:
    trials = study.trials()
    best = ranked(trials)
    text = " ".join(page[1].words["main"][0].split())
    assert f"{min(20, len(best))} of {len(best)} trials with a value" in text
    for trial in best[:20]:
        assert f"{trial.value:.4f}" in page[1].words["td"]
    counted = judged(trials)
    trained = sum(trial.user_attrs["epochs"] for trial in counted)
    assert {t.user_attrs["reason"] for t in trials} - {t.user_attrs["reason"] for t in counted} == {
        "oom", "unfit", "crashed",
    }  # fmt: skip
    assert f"{4 * len(counted) - trained} of {4 * len(counted)} epochs" in text
    for reason in {str(trial.user_attrs["reason"]) for trial in trials}:
        assert reason in page[1].words["td"], reason
    assert "ab12" * 16 in text and f"segtune export {study.spec.name} --to best/" in text
    assert "There are no pictures of trial" in text


def test_a_report_speaks_of_its_task_and_begins_with_what_matters(
    study: Study, page: tuple[str, Page]
) -> None:
    text = report_text(study, "md", Artifacts(Path("nowhere"))).replace("\\", "")
    head, _, *rows = text.split("## Leaderboard\n\n")[1].split("\n\n")[0].splitlines()
    masks = study.spec.task == "segmentation"
    second = "model.arch" if masks else "model.encoder"
    assert f"one seed | optim.lr | data.resolution | {second} |" in head
    assert [row for row in rows if " 2 of 4 | median |" in row]  # stopped, and so marked
    assert not [row for row in rows if " 2 of 4 | completed |" in row]
    assert 'Epochs as in "2 of 4": the trial was stopped there' in text
    best = text.split("## Best config")[1].splitlines()[4:6]
    assert [re.findall(r"[a-z]+[.]\w+", row)[0] for row in best] == ["optim.lr", "data.resolution"]
    captions = " ".join(page[1].words["figcaption"])
    assert ("dashes region loss" in captions) == masks
    assert ("dashes threshold map" in captions) != masks
    assert ("split and class" in text) == masks
    assert "field note" not in text.lower() + page[0].lower()


def test_a_setting_that_does_not_count_is_neither_drawn_nor_listed(
    tmp_path: Path, scripted_study: Callable[..., Study]
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    study = scripted_study(url, "segmentation", endings=["completed"] * 12)
    facts = gather(study)
    of_tversky = {
        trial.number for trial in facts.ranking if facts.settings(trial)["loss.region"] == "tversky"
    }
    facts.__dict__["importances"] = {"loss.tversky_alpha": 0.5, "optim.lr": 0.2}
    assert 1 < len(of_tversky) < 12 and facts.by_importance[:2] == [*facts.importances]
    graph, *_ = slices(facts).values()
    assert set(graph.data[0].marker.color) == of_tversky
    assert (len(graph.data) == 2) == (facts.ranking[0].number in of_tversky)  # the best's diamond
    _, table, _ = leaderboard(facts, 12)
    assert isinstance(table, Table) and table.columns[2] == "loss.tversky_alpha"
    shown = {row[0]: row[2] for row in table.rows}
    assert {number for number, value in shown.items() if value != "-"} == of_tversky
    study.store.close()


def test_pictures_that_a_worker_still_draws_are_pending(
    tmp_path: Path, scripted_study: Callable[..., Study]
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    study = scripted_study(url, "segmentation", endings=["completed"])
    facts = gather(study)
    [trial] = facts.trials
    for ended, weights, expected in (
        (0, "ab" * 32, "Pictures of trial 0 are pending"),
        (0, None, "There are no pictures of trial 0"),  # no weights to draw them with
        (3600, "ab" * 32, "There are no pictures of trial 0"),
    ):
        trial.set_user_attr("model_sha256", weights)
        trial.datetime_complete = datetime.datetime.now() - datetime.timedelta(seconds=ended)
        assert expected in str(best_trials(facts, {}, Artifacts(tmp_path))[-1])
    study.store.close()


def test_markdown_is_what_github_renders(study: Study) -> None:
    text = report_text(study, "md", Artifacts(Path("nowhere")))
    assert len(text) < 20_000
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    parsed = Page(rendered)
    assert {"img", "a", "script", "h4"}.isdisjoint(tag for tag, _ in parsed.tags)
    assert parsed.words["h1"] == [f"{study.spec.name}: {study.spec.task.replace('_', ' ')}"]
    assert not {"The search", "Setting by setting"} & set(parsed.words["h2"])
    assert "Leaderboard" in parsed.words["h2"] and "How to reproduce" in parsed.words["h2"]
    board = text.split("## Leaderboard\n\n")[1].split("\n\n")[0].splitlines()
    assert len(board) == 2 + 10
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in board}) == 1
    assert parsed.words["details"] and parsed.words["summary"]


def test_the_study_file_in_a_report_is_the_study(study: Study) -> None:
    text = report_text(study, "md", Artifacts(Path("nowhere")))
    stored = re.findall(r"```\n(name: .*?)\n```", text, re.DOTALL)
    assert StudySpec.of(yaml.safe_load(stored[-1])) == study.spec


def test_a_real_study_is_reported_with_its_pictures(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(finished.url)
    study = open_study(store, "my-study")
    artifacts = Artifacts(tmp_path / "artifacts")
    shutil.copytree(finished.artifacts, artifacts.folder)
    pictures = artifacts.workdir(study, ranked(study.trials())[0].number) / "pictures"
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    for number in range(3):
        Image.fromarray(noise).save(pictures / f"worst-{number}-<b>.png")
    monkeypatch.chdir(tmp_path)
    options = ["--store", finished.url, "--artifacts", str(artifacts.folder)]
    answer = CliRunner().invoke(app, ["report", "my-study", *options])
    assert answer.exit_code == 0, answer.output
    text = Path("my-study-report.html").read_text(encoding="utf-8")
    size = len(text.encode())
    assert answer.output == f"wrote my-study-report.html ({size / 1e6:.2f} MB)\n" and size < LIMIT
    captions = Page(text).words["figcaption"]
    assert {"curves", "per-class", "worst-0-<b>"} <= set(captions)  # those of the trial itself too
    images = [str(attrs["src"]) for tag, attrs in Page(text).tags if tag == "img"]
    assert images and sum(len(image) for image in images) < 1.4 * PICTURE_BYTES
    answer = CliRunner().invoke(app, ["report", "my-study", "--to", "-", *options])
    assert answer.output.startswith("# my-study: segmentation\n")
    [stored] = re.findall(r"```\n(name: .*?)\n```", answer.output, re.DOTALL)
    Path("again.yaml").write_text(stored, encoding="utf-8")
    assert StudySpec.load(Path("again.yaml")) == finished.spec  # paths and all: it can be launched
    store.close()


def test_pictures_are_shrunk_to_fit_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    assert thumbnails(tmp_path / "none", 1000) == ([], 0)
    rng = np.random.default_rng(0)
    for name in ("worst-1-x", "best-1-x"):
        Image.fromarray(rng.integers(0, 256, (200, 1500, 3), dtype=np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    chart = Image.new("RGBA", (1400, 500), (0, 0, 0, 0))
    chart.paste((200, 30, 30, 255), (100, 100, 900, 110))
    chart.save(tmp_path / "curves.png")
    (tmp_path / "per-class.png").write_bytes(b"\x89PNG broken")
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png", "GIF")  # a format that ours are not
    (tmp_path / "notes.txt").write_text("not a picture")
    wide, left_out = thumbnails(tmp_path, 10_000_000)
    assert [p.caption for p in wide] == ["curves", "best-1-x", "worst-1-x"] and left_out == 2
    assert [p.mimetype for p in wide] == ["image/png", "image/jpeg", "image/jpeg"]
    assert Image.open(io.BytesIO(wide[0].content)).size == (1000, 357)
    assert Image.open(io.BytesIO(wide[0].content)).convert("RGB").getpixel((0, 0)) == (255,) * 3
    narrow, left_out = thumbnails(tmp_path, sum(len(p.content) for p in wide) // 2)
    assert len(narrow) == 3 and left_out == 2
    few, left_out = thumbnails(tmp_path, len(wide[0].content))
    assert [p.caption for p in few] == ["curves"] and left_out == 4


def test_the_few_red_lines_on_a_grey_page_stay_red(tmp_path: Path) -> None:
    shades = np.random.default_rng(0).integers(0, 256, (400, 300, 1), dtype=np.uint8)
    page = Image.fromarray(np.repeat(shades, 3, axis=2))
    page.paste((220, 30, 30), (8, 8, 24, 24))
    page.save(tmp_path / "worst-1-x.png")
    [picture], _ = thumbnails(tmp_path, PICTURE_BYTES)
    shown = Image.open(io.BytesIO(picture.content)).convert("RGB")
    red, green, blue = shown.getpixel((16, 16))  # type: ignore[misc]
    assert red > 180 and green < 80 and blue < 80


def test_a_study_whose_trials_all_failed_is_reported(
    tmp_path: Path, scripted_study: Callable[..., Study]
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    study = scripted_study(url, "segmentation", endings=["crashed", "unfit", "oom"])
    for form in ("html", "md"):
        text = report_text(study, form, Artifacts(tmp_path))
        assert "No trial has ended with a value yet." in text
        assert "No trial has trained an epoch." in text and "crashed" in text
        assert "Leaderboard" not in text
    study.store.close()


def test_one_trial_is_enough(tmp_path: Path, scripted_study: Callable[..., Study]) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    study = scripted_study(url, "text_detection", endings=["completed"], epochs=1)
    text = report_text(study, "html", Artifacts(tmp_path))
    assert "1 of 1 trials with a value" in text and "Setting by setting" not in text
    study.store.close()


def invoke(folder: Path, arguments: str) -> Result:
    store = f"sqlite:///{folder / 'store.db'}"
    return CliRunner().invoke(app, ["report", *arguments.split(), "--store", store])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("scripted-segmentatoin", "; did you mean scripted-segmentation?"),
        ("scripted-segmentation --to none/r.html", "the folder none does not exist; make it first"),
        ("scripted-segmentation --to folder", "must end in .html or .md, or give --format"),
        ("scripted-segmentation --to folder.md", "--to folder.md is a folder; name a file"),
        ("scripted-segmentation --to pipe.md", "--to pipe.md is not a regular file; name a file"),
        ("scripted-segmentation --to r.pdf", "--to r.pdf: must end in .html or .md"),
        ("scripted-segmentation --format pdf", "--format pdf: must be html or md"),
        ("scripted-segmentation --format htm", "must be html or md; did you mean html?"),
        ("scripted-segmentation --to - --format html", "only --format md goes to standard output"),
        (f"scripted-segmentation --to {'x' * 300}.md", "cannot be written: File name too long"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: str,
    message: str,
    tmp_path: Path,
    scripted_study: Callable[..., Study],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    scripted_study(
        f"sqlite:///{tmp_path / 'store.db'}", "segmentation", endings=["oom"]
    ).store.close()
    Path("folder").mkdir()
    Path("folder.md").mkdir()
    os.mkfifo("pipe.md")
    before = sorted(tmp_path.rglob("*"))
    answer = invoke(tmp_path, arguments)
    assert answer.exit_code == 2, answer.output
    assert message in answer.stderr and answer.stderr.startswith("segtune: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_study_without_an_ended_trial_is_refused(
    tmp_path: Path, scripted_study: Callable[..., Study]
) -> None:
    scripted_study(f"sqlite:///{tmp_path / 'store.db'}", "segmentation", endings=[]).store.close()
    answer = invoke(tmp_path, f"scripted-segmentation --to {tmp_path / 'r.html'}")
    assert answer.exit_code == 2 and "has nothing to report" in answer.stderr
    assert not (tmp_path / "r.html").exists()


def test_a_report_is_written_whole_or_not_at_all(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.md"
    target.write_text("the earlier one")
    assert write_report(study, target, "md", Artifacts(tmp_path)) == target.stat().st_size
    earlier = target.read_bytes()

    def refuse(self: Path, other: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError, match=r"report\.md cannot be written: Permission denied"):
        write_report(study, target, "md", Artifacts(tmp_path))
    assert [*tmp_path.iterdir()] == [target] and target.read_bytes() == earlier


@pytest.fixture(scope="module")
def large(
    tmp_path_factory: pytest.TempPathFactory, scripted_study: Callable[..., Study]
) -> Iterator[Facts]:
    """3,000 trials of 100 epochs over 255 classes; in memory, where a store would take minutes."""
    folder = tmp_path_factory.mktemp("large")
    classes = [f"{index} of the many classes {'<&>' * 5}" for index in range(255)]
    url = f"sqlite:///{folder / 'store.db'}"
    study = scripted_study(url, "segmentation", ["oom"], 100, classes)
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    reasons = ["completed", "median", "health:diverging", "patience", "timeout", "nonfinite"]
    samples = [(study.space.sample(asked := sampled.ask()).flat(), asked) for _ in range(300)]
    trials = []
    for number in range(3000):
        config, asked = samples[number % len(samples)]
        value = 0.3 + (number * 0.618034) % 0.4
        reason = reasons[number % len(reasons)]
        complete = reason in ("completed", "patience")
        trial = create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            value=value,
            params=asked.params,
            distributions=asked.distributions,
            intermediate_values={e: value * e / (e + 9.87654) for e in range(1, 101)},
            user_attrs={
                "config": config,
                "reason": reason,
                "epochs": 100 if reason == "completed" else 40,
                "best_epoch": 40,
                "seconds": 1234.567 + number,
                "bar": value if reason == "median" else None,
                "per_class": [round(value + i / 10000, 4) for i in range(255)],
            },
        )
        trial.number = number
        trials.append(trial)
    facts = Facts(study, trials)
    facts.__dict__["slots"] = gather(study).slots | {"COMPLETE": 3000}
    facts.__dict__["histories"] = dict.fromkeys(
        [trial.number for trial in facts.ranking[:5]], _long_history()
    )
    facts.__dict__["importances"] = dict.fromkeys(study.space.dims, 0.05)
    yield facts
    study.store.close()


def _long_history() -> list[EpochReport]:
    loss = Losses(total=1.23456789, pixel=0.56789012, region=0.67890123)
    return [EpochReport(epoch=e, metric=0.5, train=loss, val=loss) for e in range(1, 101)]


def test_a_large_study_stays_small_and_quick(large: Facts, tmp_path: Path) -> None:
    began = time.monotonic()
    body = to_html(report_blocks(large, Artifacts(tmp_path)))
    seconds = time.monotonic() - began
    page = len(asset("report.html")) + len(get_plotlyjs()) + 10_000  # and its style
    assert page + len(body.encode()) + 4 / 3 * PICTURE_BYTES < LIMIT
    assert seconds < 30, seconds
    assert "1000 of 3000 trials, evenly by rank" in body
    assert "and 2980 more" not in body and "And 980 more." in body
