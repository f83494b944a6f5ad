"""A Ray cluster of this machine, in a process of its own. Run by tests/service/test_ray.py.

Ray reads how it authenticates when it is imported, so the caller sets it before. The head has no
room for workers. Prints the address; then, for each line of standard input, an answer:

    add CPUS GPUS   a node; its id
    remove ID       as if it had lost power
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

LOCAL = {"node_ip_address": "127.0.0.1"}

cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, **LOCAL},
)
nodes = {}
print(cluster.address, flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    if word == "add":
        node = cluster.add_node(num_cpus=int(rest[0]), num_gpus=int(rest[1]), **LOCAL)
        nodes[node.node_id] = node
        print(node.node_id, flush=True)
    else:
        cluster.remove_node(nodes.pop(rest[0]), allow_graceful=False)
        print("removed", flush=True)
cluster.shutdown()
