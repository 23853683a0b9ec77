"""A holder's gallery on several machines, with Ray: each has a range of the rows, and does the passes over them.

**First of all: Ray's ports run code for whoever reaches them and shows the token.** Token authentication is always on
here (`nodes.cluster.machines`). It does not replace a firewall: Ray listens on *every* address of a machine, whatever
address it is told, and what it says between machines is not encrypted unless its TLS is set up. So the machines need a
network of the holder's own, and a firewall in front of it. A machine of the cluster holds rows in the clear in memory,
like the node itself, and reads the node's storage key: guard it like the node.

::

    sealed block files      nodes.blocks, on a folder that every machine can read
    shard.Shard             one range of rows in one process: opens its own blocks when it starts
    rows.ClusterRows        stands for all rows, in the place of an array; passes are split, and joined in row order
    connection.connect      to the cluster that `node.toml` names
    machines                `lineup cluster start | status | drain`

A shard's answer is a function of the work alone, so a worker that dies costs time, and asking twice does no harm. The
path on a single machine loads no Ray.
"""
