"""A Ray cluster of several raylets on this machine, in a process of its own.

    python ray_nodes.py

writes a JSON line with its address, then obeys one JSON request a line: add a node, end a node by
signal 9, stop. It ends with its input, and takes all nodes with it.
"""

import json
import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20}
    )
    nodes = {}

    def tell(**message):
        answers.write(json.dumps(message) + "\n")

    tell(address=cluster.address)
    try:
        for line in sys.stdin:
            wish = json.loads(line)
            match wish["kind"]:
                case "add":
                    nodes[wish["name"]] = cluster.add_node(
                        num_cpus=1,
                        num_gpus=wish["gpus"],
                        resources=wish["resources"],
                        object_store_memory=80 << 20,
                    )
                    raylets = nodes[wish["name"]].all_processes["raylet"]
                    tell(done="add", pid=raylets[0].process.pid)
                case "end":
                    cluster.remove_node(nodes.pop(wish["name"]), allow_graceful=False)
                    tell(done="end")
                case "stop":
                    break
    finally:
        cluster.shutdown()


main()
