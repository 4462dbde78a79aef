"""Arrivals that come from another process, as requests do: a timer of the event loop itself is late by up to 1 ms.

python -m tests.benchmarks.knocks PER_S    writes the instant at which it begins, then a byte at each arrival
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import time

SEED = 1
SECONDS = 3.0
BEGINNING_S = 0.1


def schedule(per_s: int) -> list[float]:
    """Poisson arrivals: seconds from the beginning."""
    rng = random.Random(SEED)
    instants = itertools.accumulate(rng.expovariate(per_s) for _ in itertools.count())
    return list(itertools.takewhile(lambda at: at < SECONDS, instants))


def main() -> None:
    began = time.perf_counter() + BEGINNING_S
    print(began, flush=True)
    for at in schedule(int(sys.argv[1])):
        time.sleep(max(0.0, began + at - time.perf_counter()))
        os.write(sys.stdout.fileno(), b".")


if __name__ == "__main__":
    main()
