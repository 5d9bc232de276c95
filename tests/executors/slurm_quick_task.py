"""A task that knows its machine already, so that a test of ten tasks does not measure it ten times.

`python slurm_quick_task.py FOLDER KIND`: the rest is the real task. The machine is that of the
JSON file in ATTNBENCH_TEST_MACHINE; kind `blue` calls itself other hardware.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from bench import launch
from bench.model import Ceiling, Environment, from_json

_machine = json.loads(Path(os.environ["ATTNBENCH_TEST_MACHINE"]).read_text())


def _known(_workers):
    environment = from_json(Environment, _machine["environment"])
    if sys.argv[2] == "blue":
        environment = replace(environment, hardware_id=f"{environment.hardware_id}-blue")
    return environment, tuple(from_json(Ceiling, one) for one in _machine["ceilings"])


launch.Workers.machine = _known

if __name__ == "__main__":
    from bench.slurm import task as slurm_task

    slurm_task.main(sys.argv[1:], os.environ)
