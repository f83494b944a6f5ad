"""Commands that show or write what studies have found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import (
    ArtifactsOption,
    ConfigOnlyOption,
    NoTestOption,
    OnnxOption,
    RootsOption,
    StoreOption,
    StudyArgument,
    closing_store,
    console,
)
from spaces.errors import InputError


def status(
    study: Annotated[str | None, typer.Argument(help="Name of a study; all when left out")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
    store: StoreOption = None,
) -> None:
    """Show studies: slots, best value, and why trials ended."""
    from search.findings.facts import summary
    from search.findings.tables import show_studies, show_study, show_workers
    from search.studies.heartbeats import workers
    from search.studies.study import open_study, study_names

    with closing_store(store) as opened:
        names = study_names(opened) if study is None else [study]
        summaries = [summary(open_study(opened, name)) for name in names]
        crew = workers(opened)
    if as_json:
        found = {"studies": summaries, "workers": crew} if study is None else summaries[0]
        typer.echo(json.dumps(found, indent=1))
        return
    if study is None:
        show_studies(summaries, console())
    else:
        show_study(summaries[0], console())
        crew = [worker for worker in crew if worker["study"] == study]
    show_workers(crew, console())


def dashboard(
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one")] = 8080,
    allow_writes: Annotated[
        bool,
        typer.Option(
            "--allow-writes",
            help="Let people write notes and ask for exports, but no reader by name",
        ),
    ] = False,
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the password in one line [default: $SEGTUNE_DASHBOARD_PASSWORD_FILE, "
            "else $SEGTUNE_DASHBOARD_PASSWORD, else none]"
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which others reach it (repeatable)"),
    ] = None,
    proxy_user_header: Annotated[
        str | None,
        typer.Option(help="Header in which a proxy names the user that it has signed in"),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(help="Address of that proxy; from others the header is nothing (repeatable)"),
    ] = None,
    data_root: RootsOption = None,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Show the studies in a browser, until stopped. Read-only, and for this machine, by default."""
    from search.dashboard.doors import proxy_of
    from search.dashboard.server import Access, listen, read_password, serve
    from search.database.store import has_store
    from search.files.artifacts import open_artifacts

    kept = open_artifacts(artifacts, write=allow_writes)
    signs_in = proxy_of(proxy_user_header, tuple(proxy or ()))
    password, names = read_password(password_file), tuple(allow_host or ())
    access = Access(host, names, password, allow_writes, signs_in, tuple(data_root or ()))
    if not has_store(store):
        access.check(people=False)  # before a store is made
    with listen(host, port) as listener, closing_store(store) as opened:
        raise typer.Exit(serve(opened, kept, console(), listener, access))


def report(
    study: StudyArgument,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="File to write; - prints Markdown [default: STUDY-report.html]"),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="html or md [default: by the ending of --to]"),
    ] = None,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Write what a study has found into one file: HTML that opens offline, or Markdown."""
    from search.files.artifacts import open_artifacts
    from search.findings.page import check_target
    from search.findings.report import report_text, write_report
    from search.studies.study import open_study

    target = to or Path(f"{study}-report.{form or 'html'}")
    form = check_target(target, form)
    kept = open_artifacts(artifacts)
    with closing_store(store) as opened:
        found = open_study(opened, study)
        if str(target) == "-":
            typer.echo(report_text(found, form, kept), nl=False)
            return
        size = write_report(found, target, form, kept)
    typer.echo(f"wrote {target} ({size / 1e6:.2f} MB)")


def compare(
    study: StudyArgument,
    other: Annotated[str, typer.Argument(help="Name of another one", show_default=False)],
    to: Annotated[
        Path | None,
        typer.Option("--to", help="File to write: .html with a graph, or .md; - prints Markdown"),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Show two studies side by side: best values, curves, and what differs in them."""
    from search.findings import comparison
    from search.findings.page import as_page, check_target, write_page
    from search.studies.study import open_study

    form = None if to is None else check_target(to, None)
    if study == other:
        raise InputError(f"{study} stands twice; name two studies")
    with closing_store(store) as opened:
        blocks = comparison.compare(open_study(opened, study), open_study(opened, other))
    if to is None or form is None:
        comparison.show(blocks, console())
        return
    page = as_page(f"{study} and {other}", blocks, form)
    if str(to) == "-":
        typer.echo(page, nl=False)
        return
    typer.echo(f"wrote {to} ({write_page(to, page) / 1e6:.2f} MB)")


def replay(
    study: StudyArgument,
    store: StoreOption = None,
    orders: Annotated[
        int, typer.Option(min=1, max=10_000, help="Random orders of the study's trials")
    ] = 50,
    workers: Annotated[
        int, typer.Option(min=1, max=10_000, help="Workers that train at once, simulated")
    ] = 1,
    finish: Annotated[
        int,
        typer.Option(min=0, help="First train so many trials to their ends that it had stopped"),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
    artifacts: ArtifactsOption = None,
) -> None:
    """Show what each stopping rule would have saved of a study, and lost; trains nothing.

    With --finish stopped trials are trained to their ends first, here, beside the study: so it is
    known what its own rule has lost. Ctrl-C saves; repeat to go on."""
    import optuna

    from search.findings.savings import as_json as to_json
    from search.findings.savings import compare, read_curves, show
    from search.studies.study import open_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with closing_store(store) as opened:
        opened_study = open_study(opened, study)
        curves = read_curves(opened_study)
        if finish:
            from rich.console import Console

            from search.files.artifacts import open_artifacts
            from search.finish import finish as finish_trials
            from search.work.forkserver import warm_up

            kept = open_artifacts(artifacts)
            warm_up()
            said = Console(stderr=True) if as_json else console()
            if code := finish_trials(opened_study, finish, kept, said):
                raise typer.Exit(code)
            curves = read_curves(opened_study)
        rows = compare(opened_study, curves, orders, workers)
        if as_json:
            typer.echo(to_json(curves, rows))
        else:
            show(opened_study, curves, rows, orders, console())


def export(
    study: StudyArgument,
    to: Annotated[Path, typer.Option("--to", help="Folder to write", show_default=False)],
    trial: Annotated[int | None, typer.Option(help="This trial instead of the best one")] = None,
    fastest_within: Annotated[
        float | None,
        typer.Option(
            "--fastest-within",
            min=0,
            help="Instead the trial of the lowest latency, so far below the best at most: 0.01",
            show_default=False,
        ),
    ] = None,
    no_test: NoTestOption = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="With data.folds: train it here on all images")
    ] = False,
    config_only: ConfigOnlyOption = False,
    all_configs: Annotated[
        bool, typer.Option("--all-configs", help="Instead the config of every ended trial")
    ] = False,
    onnx: OnnxOption = False,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Write the best config, the weights of its median seed, their provenance and curves.

    Where the study has a test split, the best trial and the baseline are scored on it, and the look
    is recorded.
    """
    from search.files.artifacts import open_artifacts
    from search.findings.export import check_target, export_configs, export_study
    from search.findings.looks import look_lines
    from search.findings.onnx_models import agreement_lines
    from search.studies.looks import Look
    from search.studies.study import open_study

    check_target(to)
    chosen = {"--refit": refit, "--config-only": config_only, "--all-configs": all_configs}
    given = [name for name, on in chosen.items() if on]
    if onnx:
        given.append("--onnx")
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other; leave one of them out")
    if trial is not None and fastest_within is not None:
        raise InputError("--trial and --fastest-within exclude each other; leave one of them out")
    if refit and fastest_within is not None:
        raise InputError("--refit takes a trial: leave --fastest-within out, and name --trial N")
    if all_configs:
        if trial is not None or fastest_within is not None:
            raise InputError(
                "--all-configs writes every trial; leave --trial and --fastest-within out"
            )
        with closing_store(store) as opened:
            count = export_configs(open_study(opened, study), to)
        typer.echo(f"wrote {to}: {count} configs; next: segtune train {to}/trial-N.yaml --to DIR")
        return
    if refit:
        from search.retrain import refit_study

        with closing_store(store) as opened:
            raise typer.Exit(refit_study(open_study(opened, study), to, trial, console()))
    with closing_store(store) as opened:
        kept = open_artifacts(artifacts)
        export_study(
            open_study(opened, study),
            kept,
            to,
            trial,
            test=not no_test,
            config_only=config_only,
            onnx=onnx,
            within=fastest_within,
        )
    facts = json.loads((to / "provenance.json").read_text())
    if fastest_within is not None:
        typer.echo(
            f"trial {facts['trial']} is the fastest within {fastest_within:g} of the best: "
            f"{facts['latency_ms']:.3g} ms an image on {facts['hardware'].get('device', '?')}"
        )
    if facts["model_sha256"] is None:
        why = "" if config_only else "; its weights are not here (keep_models, --artifacts)"
        typer.echo(
            f"wrote {to}: the config of trial {facts['trial']}, which had {facts['metric']} "
            f"{facts['value']:.4f} on val{why}"
        )
        typer.echo(f"next: segtune train {to / 'config.yaml'} --to DIR")
        return
    typer.echo(
        f"wrote {to}: trial {facts['trial']}; these weights, of seed {facts['seed']}, have "
        f"{facts['metric']} {facts['value']:.4f} on val"
    )
    for line in agreement_lines(facts.get("onnx", []), facts["metric"]):
        typer.echo(line)
    if facts["test"] is not None:
        look = Look.model_validate(facts["test"])
        for line in look_lines(look, facts["test"]["looks"], facts["metric"]):
            typer.echo(line)
    typer.echo(
        f"next: segtune evaluate {to} --data val, or segtune train {to / 'config.yaml'} --to DIR"
    )


def ensemble(
    study: StudyArgument,
    to: Annotated[Path, typer.Option("--to", help="Folder to write", show_default=False)],
    size: Annotated[
        int | None,
        typer.Option(min=1, max=50, help="Draws at most [default: that of the study file, else 5]"),
    ] = None,
    from_folds: Annotated[
        bool, typer.Option("--from-folds", help="With data.folds: of the models of all folds")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also model.onnx, if each scores as its weights on val")
    ] = False,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Choose models that are best together on val; write them as one export.

    Greedily and with replacement, among the best trials whose weights were kept (keep_models).
    Prints what each draw gains and costs.
    """
    from search.ensemble import make_ensemble
    from search.files.artifacts import open_artifacts
    from search.studies.study import open_study

    with closing_store(store) as opened:
        found, kept = open_study(opened, study), open_artifacts(artifacts)
        code = make_ensemble(
            found, kept, to, size=size, from_folds=from_folds, onnx=onnx, console=console()
        )
    raise typer.Exit(code)
