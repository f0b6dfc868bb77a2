"""Which image stands where in which batch: arithmetic alone, the same for every source, stack and number of threads.

Training, epoch e of a source with n images over R ranks:

1. The source is put in order by NumPy's RandomState of (seed, e): one permutation of all positions, or, where
   neighbours should be read together, a permutation of blocks of neighbours.
2. Rank r has the part [r*n//R, (r+1)*n//R) of it: parts are disjoint, cover everything, and differ by one at most.
3. In the block form each rank then shuffles within a buffer of `buffer` images: the image at place i gets the key
   i + buffer * u with u uniform in [0, 1), and images are taken by rising key. Like a shuffle buffer, but known
   beforehand: any batch can be found without reading those before it.
4. The first steps * batch_size images are the epoch's batches; what is left over waits for another epoch's order.

Batch k of the run is batch k % steps of epoch k // steps. Evaluation takes the positions in order; rank r has the same
part as above, filled up with -1 to the steps of the largest part.
"""

import threading

import numpy as np

BLOCK = 64
_AHEAD = 8
_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def steps_of(samples, batch_size, ranks, training):
    """Batches in one epoch, the same on every rank."""
    if training:
        return samples // ranks // batch_size
    largest = (samples + ranks - 1) // ranks
    return (largest + batch_size - 1) // batch_size


class Order:
    """The order of one rank. See the module's text for the rule.

    Args:
        samples: images of the source.
        batch_size: images a batch of this rank.
        rank, ranks: who this is, and of how many.
        seed: whole number >= 0.
        training: shuffled and endless, or in order and once.
        buffer: size of the shuffle buffer, in images of this rank; None for one permutation of everything.
    """

    def __init__(self, samples, batch_size, rank=0, ranks=1, seed=0, training=True, buffer=None):
        self.samples, self.batch_size = samples, batch_size
        self.start, self.stop = rank * samples // ranks, (rank + 1) * samples // ranks
        self.steps = steps_of(samples, batch_size, ranks, training)
        self.seed, self.training = seed, training
        self.buffer = None if buffer is None or buffer >= samples else max(1, buffer)
        self._epochs = {}
        self._lock = threading.Lock()

    def batch(self, step):
        """Positions of batch `step`, int64 [batch_size]; -1 for a place to be filled up."""
        first = step * self.batch_size
        if self.training:
            first = step % self.steps * self.batch_size
            return self.epoch(step // self.steps)[first : first + self.batch_size]
        found = np.arange(self.start + first, min(self.start + first + self.batch_size, self.stop))
        return np.r_[found, np.full(self.batch_size - len(found), -1)].astype(np.int64)

    def substitute(self, number, attempt):
        """The position that stands in for a bad image: place `number` of the run, attempts counting from 1.

        Each attempt goes on by the golden section of the rank's part, so that stand-ins come from anywhere in the
        epoch and are the same after a resume.
        """
        step, row = divmod(number, self.batch_size)
        mine = self.epoch(step // self.steps)
        place = step % self.steps * self.batch_size + row
        stride = max(1, int(len(mine) * 0.6180339887))
        while np.gcd(stride, len(mine)) != 1:
            stride += 1
        return int(mine[(place + attempt * stride) % len(mine)])

    def seeds(self, step, positions):
        """Two random numbers for the augmentation of each image, int64 [k, 2], from (seed, epoch, position)."""
        epoch = step // self.steps
        state = _mix(_mix(_mix(np.uint64(self.seed)) ^ np.uint64(epoch)) ^ positions.astype(np.uint64))
        return np.stack([state >> np.uint64(1), _mix(state) >> np.uint64(1)], axis=1).astype(np.int64)

    def read_ahead(self, step, is_first):
        """Positions that will be read soon, int64 [k], where the shuffle works within a buffer."""
        if not self.training or self.buffer is None:
            return np.zeros(0, np.int64)
        first = step % self.steps * self.batch_size
        front = first + self.buffer // 2 + _AHEAD * self.batch_size
        behind = max(0, first - self.buffer // 2)
        stream = self._stream(step // self.steps)
        starts = is_first or first == 0
        return stream[behind : front + self.batch_size] if starts else stream[front : front + self.batch_size]

    def epoch(self, epoch):
        """All positions of the rank's part in the order of the epoch, int64; the last ones may be left over."""
        return self._of_epoch(epoch)[1]

    def _stream(self, epoch):
        return self._of_epoch(epoch)[0]

    def _of_epoch(self, epoch):
        with self._lock:
            if epoch not in self._epochs:
                # Batches are planned ahead: at the border of two epochs both are in use.
                for old in sorted(self._epochs)[:-1]:
                    del self._epochs[old]
                self._epochs[epoch] = self._shuffle(np.random.RandomState(words(self.seed) + words(epoch)))
            return self._epochs[epoch]

    def _shuffle(self, random):
        if self.buffer is None:
            mine = random.permutation(self.samples)[self.start : self.stop]
            return mine, mine
        blocks = random.permutation(-(-self.samples // BLOCK))
        stream = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
        stream = stream[stream < self.samples][self.start : self.stop]
        keys = np.arange(len(stream)) + self.buffer * random.random_sample(self.samples)[self.start : self.stop]
        return stream, stream[np.argsort(keys, kind="stable")]


def words(number):
    """A whole number in [0, 2**64) as two words of 32 bits, as RandomState takes them."""
    return [number & 0xFFFFFFFF, number >> 32]


def _mix(x):
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014): neighbouring numbers become unrelated ones."""
    with np.errstate(over="ignore"):
        x = (x + np.uint64(0x9E3779B97F4A7C15)) & _MASK
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
