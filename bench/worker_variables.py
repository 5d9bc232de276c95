"""Environment variables of every worker process. Imports no torch."""

import os

WORKER_VARIABLES = {
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment of every worker: no pool of compiler processes beside a timed call."""


def worker_variables(threads: int) -> dict[str, str]:
    """Environment variables of a worker process with `threads` threads."""
    count = str(threads)
    return {**os.environ, **WORKER_VARIABLES, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
