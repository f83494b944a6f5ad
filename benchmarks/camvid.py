"""The CamVid study of examples/camvid.yaml: time, best mIoU, epochs saved, and the export checked.

    python -m benchmarks.camvid

Runs in a temporary SEGTUNE_HOME; about a quarter of an hour on two cores.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from pathlib import Path

SPEC = Path(__file__).resolve().parents[1] / "examples" / "camvid.yaml"


def main() -> None:
    """Run the study and print one line a figure."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGTUNE_HOME"] = folder
        from rich.console import Console

        from search.export import export_study
        from search.launch import launch
        from search.results import best_trial, summary
        from search.store import open_store
        from search.study import open_study
        from spaces.spec import StudySpec, load_run_config
        from trainers.data import load_data
        from trainers.evaluate import evaluate

        spec = StudySpec.load(SPEC)
        artifacts = Path(folder) / "artifacts"
        store = open_store()
        began = time.perf_counter()
        assert launch(spec, store, artifacts, Console(width=160)) == 0
        seconds = time.perf_counter() - began
        study = open_study(store, spec.name)
        found, best = summary(study), best_trial(study)
        to = export_study(study, artifacts, Path(folder) / "best")
        data, config = load_run_config(to / "config.yaml")
        again = evaluate(to / "model", config, load_data(data), "val", to / "pictures")
        store.close()
    print(f"machine            {platform.machine()}, {os.cpu_count()} cores")
    print(f"wall time          {seconds / 60:.1f} min")
    print(f"trials             {len(found['trials'])}, ended by {found['reasons']}")
    print(f"best val mIoU      {best.value:.4f} (trial {best.number})")
    print(f"epochs             {found['epochs']}, saved {found['epochs_saved']:.1%}")
    print(f"export, evaluated  {again.scores['metric']:.6f}, study {best.value:.6f}")


if __name__ == "__main__":
    main()
