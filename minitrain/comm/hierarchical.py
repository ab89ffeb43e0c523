"""Hierarchical all-reduce: rings inside each host, and rings over the hosts for what is left.

    2 hosts x 3 ranks           host 0                   host 1
    start                       a0 b0 c0 on each rank    ...            (a0: rank 0's chunk a)
    reduce-scatter inside       a012  b012  c012         a345  b345  c345       one chunk per rank
    all-reduce across           a     b     c            a     b     c          ranks of equal place
    all-gather inside           a b c on each rank       a b c on each rank

With M bytes, L ranks per host and H hosts, N = L H:

                        hops                     bytes that a rank sends            bytes that leave a host
    flat ring           2 (N - 1)                2 (N-1)/N M                        2 (N-1)/N M
    hierarchical        2 (L - 1) + 2 (H - 1)    2 (L-1)/L M inside,                2 (H-1)/H M
                                                 2 (H-1)/H M/L between hosts

Both send almost the same bytes between hosts. The hierarchical one needs far fewer hops, each of which has a latency,
and all ranks of a host use its link at once. planner/rings.py simulates both.

Cho, Finkler, Kung, Hunter, "BlueConnect: Decomposing All-Reduce for Deep Learning on Heterogeneous Network Hierarchy",
MLSys 2019; Mikami et al., arXiv:1811.05233 (2D-torus all-reduce). Jia et al., arXiv:1807.11205, reduce to one rank per
host instead, which then sends all M bytes.
"""

from ..backend import Array, xp
from .communicator import Communicator, Tag
from .ring import Add, ring_all_gather, ring_all_reduce, ring_reduce_scatter


def hierarchical_all_reduce(inside: Communicator, across: Communicator, x: Array, tag: Tag, add: Add = xp.add) -> None:
    """Replace the flat array x (n) by the sum over all ranks, bitwise equal on all of them.

    inside: the ranks of this rank's host. across: the ranks that have this rank's place in their hosts.
    All hosts have equally many ranks, in the same order.
    """
    shard = ring_reduce_scatter(inside, x, tag, add)
    ring_all_reduce(across, shard, tag, add)
    ring_all_gather(inside, x, tag)
