"""A holder's gallery on several machines, with Ray: each has a range of the rows, and does the passes over them.

**First of all: Ray's ports run code for whoever reaches them and shows the token.** Token authentication is always on
here (`nodes.cluster.machines`). It does not replace a firewall: Ray listens on *every* address of a machine, whatever
address it is told, and what it says between machines is not encrypted unless its TLS is set up. So the machines need a
network of the holder's own, and a firewall in front of it. A machine of the cluster holds rows in the clear in memory,
like the node itself, and reads the node's storage key: guard it like the node.

::

    sealed block files      nodes.blocks, on a folder that every machine can read
    shard.Shard             one range of rows in one process: reads its own blocks when it starts, and what came since
    shards.Shards           all shards of a gallery: made, asked, asked again
    rows.ClusterRows        stands for the rows of a version; passes are split, and joined in row order
    gallery.ClusterGallery  in the place of `nodes.blocks.ResidentGallery`; `Cluster` is a node's
    link, agent, folder     the process in which a node talks to Ray, which would end the node's own with the cluster
    connection, machines    joining it; `lineup cluster start | status | drain`

What a shard answers with follows from the version, the work, and who is erased. A version's rows are the first so many
slots of its epoch; each question says how many of them lie in the range. A shard that has fewer, new or started anew,
reads the rest from the files. Rows that came since it reads beside its work: searches go on in the version before, and
the version with them is lent once all of them are at hand. So a worker that dies costs time, and asking twice does no
harm.

One thing is not as in one memory: a row that is forgotten under a search stays as it was in a shard, until no search
reads it, but is zero in one that was started anew meanwhile. Every answer therefore names the change of the gallery
under which its rows were read. Whoever was forgotten up to then is let go of (`protocol.live`) before the answer is
used, and a confirmation of such a row is refused, so that nobody is accused of a lie.

No process but those of Ray, and the one that talks to it, loads Ray.
"""
