"""A Ray cluster: joining or starting one, and what its nodes have. Knows nothing of visits."""

import importlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from bench.executor import PoolError
from bench.import_path import import_path

_LISTENER_S = 10.0


def joined(address: str | None, note: Callable[[str], None]) -> Any:
    """Return the module `ray`, with this process in the cluster at `address`, or in one of its own.

    Args:
        address: `host:port` or `ray://...`; None: a cluster is started on this machine.
        note: told which of the two happens.

    Raises:
        PoolError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise PoolError("Ray is not installed: pip install 'attnbench[ray]'") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    note("starting Ray on this machine" if address is None else f"joining Ray at {address}")
    _require_listener(address)
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if address is None else None,
            runtime_env={"env_vars": {"PYTHONPATH": import_path(os.environ)}},
        )
    except (ConnectionError, RuntimeError, ValueError) as failure:
        raise PoolError(f"no Ray cluster at {address or 'this machine'}: {failure}") from failure
    return ray


def gpus_of(node: Any) -> int:
    """GPUs of a node, as Ray lists nodes."""
    return int(node["Resources"].get("GPU", 0))


def resource_of(name: str, nodes: Sequence[Any]) -> str:
    """The cluster's own name for a kind: a custom resource, or Ray's for an accelerator type."""
    there = {resource for node in nodes for resource in node["Resources"]}
    for candidate in (name, f"accelerator_type:{name}"):
        for resource in sorted(there):
            if resource.lower() == candidate.lower():
                return resource
    return f"accelerator_type:{name.upper()}"


def _require_listener(address: str | None) -> None:
    """Ask before Ray does, which goes on asking for minutes. Other forms than host:port pass."""
    host, _, port = (address or "").rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTENER_S).close()
    except OSError as failure:
        raise PoolError(
            f"no Ray cluster at {address}: {failure}; `ray status --address {address}` on a node "
            "of the cluster says whether it runs, without --address one is started here"
        ) from failure
