"""`python skewed.py SECONDS MODULE [ARGUMENT…]`: runs a Python module on a clock that is ahead by so many seconds."""

import runpy
import sys
from datetime import UTC, datetime, timedelta

import time_machine

if __name__ == "__main__":
    _, seconds, module, *_ = sys.argv
    del sys.argv[:2]
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=float(seconds)), tick=True):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
