"""``python -m tests.ahead SECONDS MODULE ARGUMENT ...``: run a module with a clock that is ahead."""

import runpy
import sys
from datetime import UTC, datetime, timedelta

import time_machine

if __name__ == "__main__":
    seconds, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    time_machine.travel(datetime.now(UTC) + timedelta(seconds=float(seconds)), tick=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
