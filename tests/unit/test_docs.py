"""What the documents say of tests: every path exists, and every fault is injected by one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("docker/*.txt"),
    ROOT / ".ci" / "run",
]

# {a fault of docs/operations.md, as its row begins: the tests that inject it}
FAULTS = {
    "a trial's process is killed, or hangs": (
        "service/test_run.py::test_a_killed_child_is_resumed_with_its_reports",
        "service/test_run.py::test_a_child_that_hangs_is_killed_and_its_trial_goes_on",
    ),
    "a worker, or its whole process group, is killed at any point": (
        "service/test_faults.py::test_a_worker_killed_anywhere_loses_and_doubles_nothing",
        "service/test_faults.py::test_a_killed_process_group_is_taken_over",
    ),
    "a worker freezes beyond its lease": (
        "service/test_faults.py::test_a_frozen_worker_is_refused_when_it_wakes",
        "service/test_run.py::test_a_trial_ends_by_itself_when_its_supervisor_is_silent",
    ),
    "SIGTERM, Ctrl-C, a closed terminal": (
        "service/test_control.py::test_one_signal_returns_the_trials",
        "service/test_run.py::test_an_interrupted_launch_resumes_where_it_was",
        "service/test_run.py::test_a_second_ctrl_c_ends_the_child_at_once",
    ),
    "the database is stopped, crashes, or the network fails": (
        "service/test_faults.py::test_training_goes_on_while_the_database_is_away",
        "service/test_faults.py::test_a_bad_network_loses_and_doubles_nothing",
    ),
    "the embedded Postgres is killed, or ends because the disk is full": (
        "service/test_embedded.py::test_whoever_waits_for_a_killed_server_starts_it_again",
        "service/test_embedded.py::test_a_server_that_panics_on_a_full_disk_starts_when_there_is_room",
    ),
    "the last user of the embedded Postgres is killed, or its terminal closed": (
        "service/test_embedded.py::test_it_ends_with_its_last_user_however_that_ends",
    ),
    "a `postmaster.pid` that is left of a reboot, damaged, or of a copied home": (
        "service/test_embedded.py::test_a_stale_pid_file_is_no_server",
        "service/test_embedded.py::test_a_running_server_with_a_damaged_pid_file_is_found",
        "service/test_embedded.py::test_a_copied_home_leaves_the_original_alone",
    ),
    "a full disk": (
        "service/test_run.py::test_a_full_disk_pauses_and_the_trial_goes_on_when_there_is_room",
    ),
    "a GPU is lost while a worker runs": (
        "service/test_run.py::test_a_gpu_that_is_lost_ends_the_worker_and_not_the_trial",
        "gpu/nop/test_commands.py::test_a_child_never_trains_on_the_cpu_in_place_of_a_lost_gpu",
    ),
    "GPU memory runs out, at any place": (
        "gpu/nop/test_memory.py::test_out_of_memory_at_every_place_goes_on_or_is_oom",
    ),
    "a study is deleted while a worker has it open": (
        "service/test_delete.py::test_a_worker_that_meets_a_deleted_study_serves_the_others",
        "service/test_delete.py::test_a_launch_whose_study_is_deleted_ends_with_one_line",
    ),
    "no room for the cache of decoded images": (
        "service/test_run.py::test_a_full_disk_under_the_data_cache_is_no_reason_to_stop",
    ),
    "forty workers start at once on an empty database": (
        "service/test_faults.py::test_many_first_starts_at_once",
    ),
    "a Slurm job is preempted, requeued, or reaches its time limit": (
        "cluster/test_slurm.py::test_a_preempted_job_returns_its_trial_and_comes_back",
        "cluster/test_slurm.py::test_jobs_cancelled_and_requeued_lose_and_double_nothing",
        "cluster/test_slurm.py::test_a_job_at_its_time_limit_comes_back",
    ),
    "a Slurm job is cancelled": (
        "cluster/test_slurm.py::test_jobs_cancelled_and_requeued_lose_and_double_nothing",
    ),
    "a node of Slurm is lost while its job runs on there": (
        "cluster/test_slurm.py::test_an_orphan_of_a_dead_node_doubles_nothing",
    ),
    "a node of Ray is lost": (
        "cluster/test_ray.py::test_a_killed_node_loses_and_doubles_nothing",
    ),
    "the bucket is away": (
        "service/test_s3.py::test_a_bucket_that_is_away_is_tried_again",
        "service/test_s3.py::test_a_trial_waits_for_the_bucket_that_has_its_checkpoint",
    ),
    "a checkpoint is damaged": (
        "unit/trainers/test_train.py::test_a_damaged_checkpoint_is_said_and_the_run_begins_anew",
        "unit/trainers/test_folds.py::test_damage_to_a_fold_that_has_ended_is_said_and_it_begins_anew",
        "service/test_s3.py::test_a_damaged_checkpoint_is_deleted_and_the_one_before_counts",
        "service/test_s3.py::test_a_damaged_checkpoint_here_gives_way_to_the_buckets",
    ),
    "the folder of an interrupted trial is gone, damaged, or older": (
        "service/test_resumed.py::test_the_stored_history_is_that_of_the_weights",
        "service/test_resumed.py::test_only_the_holder_of_the_slot_drops_epochs",
        "service/test_s3.py::test_a_trial_that_begins_anew_takes_its_place_in_the_bucket",
    ),
    "the database's clock is put back": (
        "service/test_slots.py::test_a_clock_that_was_put_back_holds_a_dead_workers_slot_for_one_lease",
    ),
    "a process is killed while it sets a store up, or upgrades it": (
        "service/test_migrations.py::test_a_setup_of_sqlite_that_is_killed_anywhere_is_gone_on_with",
        "service/test_migrations.py::test_an_upgrade_of_sqlite_that_is_killed_anywhere_is_gone_on_with",
        "service/test_migrations.py::test_a_setup_of_postgres_that_is_cut_off_anywhere_is_gone_on_with",
        "service/test_migrations.py::test_an_upgrade_of_postgres_that_is_cut_off_anywhere_is_gone_on_with",
        "service/test_migrations.py::test_a_sqlite_store_that_an_older_version_was_killed_in_is_mended",
    ),
    "a metric is NaN": (
        "service/test_store.py::test_a_metric_of_nan_is_kept_and_is_no_value",
        "unit/trainers/test_schedules.py::test_alarms",
    ),
    "the database has no connection left": (
        "service/test_faults.py::test_a_server_without_a_connection_left_is_waited_for",
    ),
    "a worker may open no more files": (
        "service/test_run.py::test_a_worker_that_may_open_no_more_files_waits_and_loses_nothing",
    ),
    "a loader process dies, or": (
        "unit/trainers/test_batches.py::test_a_loader_process_that_dies_is_done_without",
        "unit/trainers/test_batches.py::test_a_container_with_little_shared_memory_reads_on",
    ),
    "the cache is on a file system without file locks": (
        "unit/trainers/test_cache.py::test_a_file_system_without_locks_is_streamed_from",
    ),
}  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tests_that_are_named_exist(document: Path) -> None:
    for path in re.findall(r"\btests/[\w/{},.]*\w", document.read_text(encoding="utf-8")):
        if "{" not in path:
            assert (ROOT / path).exists(), path


def test_every_fault_of_the_table_has_its_test() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.split("| fault | what happens |\n")[1].split("\n\n")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines()[1:]]
    assert len(rows) == len(FAULTS)
    for row, (fault, tests) in zip(rows, FAULTS.items(), strict=True):
        assert row.startswith(fault)
        for test in tests:
            path, _, name = test.partition("::")
            tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
            assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, test
