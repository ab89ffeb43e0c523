"""When buckets of gradients are reduced, what that sends and holds: parallel/reducer.py and zero.py in numbers."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from .events import Thread
from .holdings import Bucket, Memory
from .operations import Collective, Kind
from .setup import Setup

GRADIENTS, PARAMETERS, NORM = ("dp", "gradients"), ("dp", "parameters"), ("dp", "norm")
OVERFLOW, MODEL_NORM = ("mesh", "overflow"), ("tp", "norm")
Meet = Callable[[Collective, Sequence[int], Thread | None], None]


class Reduction:
    """The gradients of one rank during an update.

    A bucket leaves when each of its parameters has fired in every backward that it waits for, and all buckets before it
    have left.

    meet: called for each collective, with its group and the communication thread that runs it, if any. wait: called
    when the main thread waits for all but some jobs of that thread. Then a bucket that a thread has reduced to a shard
    is freed; really that may be earlier.
    """

    def __init__(
        self,
        setup: Setup,
        buckets: Sequence[Bucket],
        times: Counter[str],
        memory: Memory,
        meet: Meet,
        wait: Callable[[int], None],
    ) -> None:
        self.setup, self.strategy, self.memory, self.meet, self.wait = setup, setup.strategy, memory, meet, wait
        self.thread: Thread | None = "reduce" if self.strategy.reduce == "overlap" else None
        self.buckets = [bucket for bucket in buckets if bucket.trained]
        self.of = {w.path: bucket for bucket in self.buckets for w in bucket.weights}
        self.times = times  # backwards per micro-batch that use a parameter
        self.each_backward = self.strategy.zero >= 2 and not self.strategy.reduce_once
        self.due = 1 if self.each_backward else setup.accumulate
        self.left = self.sending = 0
        self.fired, self.ended = Counter[str](), Counter[str]()
        self.placed: set[Bucket] = set()  # buckets whose gradients exist in full
        self.sharded: set[Bucket] = set()  # buckets of which this rank's shard of the gradients exists

    def is_quiet(self, paths: Sequence[str]) -> bool:
        """Return whether a backward of these parameters only adds to gradients: it allocates and reduces nothing."""
        placed = all(self.of[path] in self.placed for path in paths)
        return placed and not self.each_backward and all(self.fired[p] + 1 < self.due * self.times[p] for p in paths)

    def write(self, path: str) -> None:
        """Contribute to a parameter's gradient: the first contribution allocates its bucket."""
        self.place(self.of[path])

    def place(self, bucket: Bucket) -> None:
        """Allocate the bucket's gradients, unless they exist."""
        if bucket not in self.placed:
            self.placed.add(bucket)
            self.memory.add("gradients", bucket.size * self.setup.stored)

    def fire(self, path: str) -> None:
        """Count a parameter whose gradient of one backward is complete; its bucket may leave."""
        self.fired[path] += 1
        if self.strategy.reduce != "naive" and self.fired[path] == self.due * self.times[path]:
            self.leave(all_complete=False)

    def end_backward(self, paths: Iterable[str]) -> None:
        """End a backward of these parameters; those that it did not reach count as fired."""
        for path in paths:
            if path in self.of:
                self.ended[path] += 1
                if self.fired[path] < self.ended[path]:
                    self.fire(path)
        if self.each_backward:
            self.leave(all_complete=True)
            self.left, self.due = 0, self.due + 1

    def leave(self, all_complete: bool) -> None:
        """Reduce the next buckets in order, up to the first incomplete one."""
        while self.left < len(self.buckets):
            bucket = self.buckets[self.left]
            complete = all(self.fired[w.path] == self.due * self.times[w.path] for w in bucket.weights)
            if not complete or (bucket.spans_stages and not all_complete):
                return
            self.left += 1
            self.place(bucket)
            if self.thread and self.strategy.zero >= 2:
                self.free_sent()  # a third bucket would wait at full size
            self.reduce(bucket)

    def reduce(self, bucket: Bucket) -> None:
        """Sum a bucket's gradients over its group; from ZeRO-2 on, keep this rank's shard and free the rest."""
        zero, stored = self.strategy.zero, self.setup.stored
        kind: Kind = "reduce_scatter" if zero else "all_reduce"
        for n in bucket.sizes if self.strategy.reduce == "naive" else [bucket.size]:
            self.meet(Collective(kind, GRADIENTS, n, self.setup.acc_item), bucket.group, self.thread)
        if zero >= 2:
            if bucket not in self.sharded:
                self.sharded.add(bucket)
                several = self.each_backward and self.setup.accumulate > 1
                self.memory.add("gradients", bucket.own * (self.setup.acc_item if several else stored))
            self.placed.remove(bucket)
            self.sending += bucket.size * stored
            if not self.thread:
                self.free_sent()

    def free_sent(self) -> None:
        """Wait for the communication thread, if there is one, and free the buckets that it has reduced to shards."""
        if self.thread:
            self.wait(0)
        self.memory.add("gradients", -self.sending)
        self.sending = 0

    def finish(self, model: Sequence[int]) -> None:
        """After the last backward: reduce what is left, agree on an overflow, compute the norm, gather parameters.

        model: the ranks that hold the other parts of this rank's replica of the model.
        """
        self.leave(all_complete=True)
        if self.thread:
            self.free_sent()
        if self.setup.scaled:
            self.meet(Collective("all_reduce", OVERFLOW, 1, 4), range(self.setup.ranks), None)
        if self.strategy.zero:
            counts = Counter(bucket.group for bucket in self.buckets)
            for group, n in counts.items():
                self.meet(Collective("all_gather", NORM, len(group), 8 * n), group, None)
        self.meet(Collective("all_gather", MODEL_NORM, len(model), 8), model, None)
        if self.strategy.zero in (1, 2):
            for bucket in self.buckets:
                self.meet(Collective("all_gather", PARAMETERS, bucket.size, self.setup.stored), bucket.group, None)
