"""What a job's command prints: bounded, plain, without passwords, however it comes."""

from __future__ import annotations

import pytest

from search.work.job_log import LONGEST, MOST_BYTES, MOST_LINES, JobLog


def log(*printed: bytes, **replaced: str) -> JobLog:
    found = JobLog(replaced)
    for data in printed:
        found.hear(data)
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_lines_are_whole_however_they_come(size: int) -> None:
    data = "one\r\ntwo\rdrei: ä €\n\nfive".encode()
    found = log(*(data[i : i + size] for i in range(0, len(data), size)))
    assert found.text() == "one\ntwo\ndrei: ä €\n"
    found.close()
    assert found.text() == "one\ntwo\ndrei: ä €\n\nfive"


def test_nothing_is_new_once_it_was_read() -> None:
    found = log(b"begun")
    assert not found.changed
    found.hear(b" and over\n")
    assert found.changed and found.text() == "begun and over" and not found.changed


def test_passwords_and_what_commands_a_terminal_are_taken_out() -> None:
    found = log(
        b"\x1b[1;31mred\x1b[0m and p@ss\n\x00\x07\x9b \xff\xfe <b>\n/tmp/x/roads of p@ss\n",
        **{"p@ss": "***", "/tmp/x/": ""},
    )
    assert found.text() == "red and ***\n\ufffd\ufffd\ufffd \ufffd\ufffd <b>\nroads of ***"
    assert "\x00" not in found.text()  # which Postgres would not take


def test_of_too_many_lines_the_first_and_the_last_are_kept() -> None:
    found = log(b"".join(b"line %d\n" % number for number in range(3 * MOST_LINES)))
    lines = found.text().split("\n")
    half = MOST_LINES // 2
    assert len(lines) == MOST_LINES + 1
    assert lines[:half] == [f"line {number}" for number in range(half)]
    assert lines[half] == f"... {2 * MOST_LINES} lines are left out ..."
    assert lines[-1] == f"line {3 * MOST_LINES - 1}"


def test_of_too_many_bytes_too() -> None:
    found = log(b"first\n", ("ä" * LONGEST + "\n").encode() * 500, b"short\n")
    text = found.text()
    assert MOST_BYTES * 0.9 < len(text.encode()) <= MOST_BYTES + 100
    assert text.startswith("first\nä") and text.endswith("ä\nshort") and "lines are left" in text


def test_a_line_without_end_takes_no_memory() -> None:
    found = log(*[b"x" * 65536] * 64)
    assert len(found.text().encode()) <= MOST_BYTES + 100
    assert {len(line) for line in found.text().split("\n") if line.startswith("x")} == {LONGEST}
