# ruff: noqa: T201 - it prints, that is its purpose
"""``make soak``: rounds of faults from a printed seed; exit code 1 unless nothing was lost, overwritten or stuck.

``--rounds 200`` takes about half an hour, ``--seed`` repeats a run, ``--only`` draws from the faults that contain a text.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections import Counter
from typing import Any

import django

from tests.faults.soak import kinds
from tests.faults.soak.observe import Findings
from tests.faults.soak.rounds import Soak
from tests.faults.soak.stage import SoakStage

ROUNDS = 200


def set_up(stage: SoakStage) -> Soak:
    os.environ.update(stage.stage.environment)
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    return Soak(stage)


def report(table: dict[str, Counter[str]]) -> None:
    columns = ["injected", *Findings().counts()]
    print("\n" + " " * 26, *(f"{name.replace('_', ' '):>20}" for name in columns))
    for name, counts in sorted(table.items()):
        print(f"{name:<26}", *(f"{counts[column]:>20}" for column in columns))


def arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of faults (default {ROUNDS})")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="repeats a run")
    parser.add_argument("--only", default="", help="draw only from faults whose name contains this")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    allowed = [kind for kind in kinds.KINDS if options.only in kind.name]
    print(f"seed {options.seed}, {options.rounds} rounds", flush=True)
    stage = SoakStage()
    try:
        soak = set_up(stage)
        is_well = soak.play(options.rounds, random.Random(options.seed), allowed)
        report(soak.table)
    finally:
        stage.close()
    print("Nothing was lost." if is_well else "Something was lost, see above.")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
