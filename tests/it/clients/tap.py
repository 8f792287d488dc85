"""Runs the checks of a client script and prints the outcome of each, in the Test Anything Protocol."""

import os
import random
import sys
import time
import traceback

PORT = sys.argv[1] if len(sys.argv) > 1 else None  # which of pgvane's ports this is: "write" or "read"
ENCRYPTED = os.environ["PGSSLMODE"] != "disable"
ENCRYPTED_AT_SERVER = os.environ["ENCRYPTED_AT_SERVER"] == "yes"
# Whether pgvane cannot tell an encrypted cancel from a session: it goes to one node, by chance the right one.
CANCELS_HIDDEN = os.environ["CANCELS_HIDDEN"] == "yes"
WAIT_SECONDS_MAX = 20

# Says that it runs before it sleeps: a cancel that comes before its query does nothing.
SLEEP = "do $$ begin raise notice 'asleep'; perform pg_sleep(60); end $$"


def large_text(length):
    """Text in which no two stretches are alike, so that a lost or doubled one shows."""
    return random.Random(7).randbytes(length // 2).hex()


def until(condition, what):
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.005)


def run(checks):
    """Runs functions by their names; one that returns has passed."""
    print(f"1..{len(checks)}")
    failed = 0
    for number, check in enumerate(checks, 1):
        name = check.__name__.replace("_", "-")
        try:
            check()
            print(f"ok {number} - {name}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {number} - {name}")
            print("# " + traceback.format_exc().replace("\n", "\n# "), flush=True)
    sys.exit(1 if failed else 0)
