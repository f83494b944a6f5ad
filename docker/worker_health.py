#!/usr/bin/env python3
"""Healthcheck of a worker's container: its worker lives, and the store has heard of it lately.

Asks the store with psycopg2 alone, 0.1 s instead of the seconds that segtune's own modules take to
load. Exit code 0 healthy, 1 not; the reason shows in `docker inspect`.
"""

from __future__ import annotations

import os
import socket
import sys

import psycopg2

SILENT_SECONDS = 60.0  # search.studies.slots.LEASE_SECONDS: after that others take its trial
TIMEOUT = 5  # seconds
QUERY = """
SELECT pid, abs(extract(epoch FROM clock_timestamp()) - seen_at) AS silent
FROM segtune_worker WHERE host = %s ORDER BY silent
"""


def main() -> int:
    try:
        connection = psycopg2.connect(
            os.environ["SEGTUNE_STORE"],
            connect_timeout=TIMEOUT,
            options=f"-c statement_timeout={1000 * TIMEOUT}",
            application_name="segtune healthcheck",
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(QUERY, (socket.gethostname(),))
                entries = cursor.fetchall()
        finally:
            connection.close()
    except psycopg2.Error as error:
        print(f"the store does not answer: {' '.join(str(error).split())}")
        return 1
    alive = [float(silent) for pid, silent in entries if os.path.exists(f"/proc/{pid}")]
    if not alive:
        print("no worker of this container is registered")
        return 1
    print(f"the worker was last heard of {alive[0]:.0f} s ago")
    return 0 if alive[0] <= SILENT_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
