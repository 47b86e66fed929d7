"""prewarm: puts the base model into the model cache (`modelCache`), so that no stage with a GPU waits for a download.

Where the cache lies on the nodes, each shard is a Pod, and they are spread over the nodes.
"""

from __future__ import annotations

import os
import platform

from ..contract.rows import WarmNode
from ..contract.variables import NODE_VARIABLE
from ..contract.workspace import Result, Workspace
from ..models.prefetch import prefetch
from .jsonl import write_rows


def run(workspace: Workspace) -> Result | None:
    """Output `nodes`: a `WarmNode` for each shard. None if other shards are not done yet.

    The runner has put a copied model into the cache already, as an input; a model of the hub is fetched here. Raises those
    of the hub, and Terminated once asked to stop.
    """
    shard, reference = workspace.spec.shard, workspace.reference("model")
    sizes = [path.stat().st_size for path in workspace.input("model").iterdir()] if reference is None else []
    for file in prefetch(reference) if reference else ():
        sizes.append(file.size)
        workspace.progress(len(sizes), file.total, "parts")
        workspace.check_stop()
    # The Pods of an earlier attempt may have run on other nodes.
    attempt, node = workspace.spec.attempt, os.environ.get(NODE_VARIABLE) or platform.node()
    row = WarmNode(id=f"{attempt}/{shard.index}", node=node, files=len(sizes), bytes=sum(sizes))
    workspace.rows.append([row.wire()])
    finished = workspace.rows.finished()
    expected = [f"{attempt}/{index}" for index in range(shard.count)]
    if not finished.keys() >= set(expected):
        return None
    nodes = [WarmNode.stored(finished[id_]) for id_ in expected]
    output = workspace.scratch / "nodes.jsonl"
    write_rows(output, nodes)
    counts = {"nodes": len({each.node for each in nodes}), "files": nodes[0].files, "bytes": nodes[0].bytes}
    return Result(outputs={"nodes": output}, counts=counts)
