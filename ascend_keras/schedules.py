"""Learning rates as pure functions of the step, in the graph, defined from step 0 to infinity."""

import math

from ascend_keras.compat import keras, register, tf


@register
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to a peak, then falls along half a cosine to an end value, and stays there.

    With W = warmup_steps, T = total_steps, step i = 0, 1, 2, ...:

        i < W:       peak * (i + 1) / W
        W <= i < T:  end + (peak - end) * sin(pi / 2 * (T - i) / (T - W)) ** 2
        T <= i:      end

    The squared sine of the steps that remain is the cosine (1 + cos(pi * (i - W) / (T - W))) / 2 without its
    cancellation: in float32 the cosine has lost every digit at the last of 100,000 steps, the sine none.

    Args:
        peak: the highest learning rate.
        total_steps: steps after which the rate is `end`, warm-up included.
        warmup_steps: steps of the rise; 0 starts at the peak.
        end: the lowest learning rate.
        name: name of the operation.

    Raises:
        ValueError: a value is out of range; all problems are listed.

    Reference: Loshchilov and Hutter, SGDR, 2017, equation 5; Goyal et al., Accurate, Large Minibatch SGD, 2017,
    section 2.2.
    """

    def __init__(self, peak, total_steps, warmup_steps=0, end=0.0, name="WarmupCosine"):
        super().__init__()
        problems = []
        if not peak > 0:
            problems.append("peak must be above 0. Received: peak={!r}.".format(peak))
        if not 0 <= end <= peak:
            problems.append("end must be in [0, peak]. Received: end={!r}, peak={!r}.".format(end, peak))
        if not 0 <= warmup_steps < total_steps:
            problems.append(
                "warmup_steps must be in [0, total_steps). Received: warmup_steps={!r}, total_steps={!r}.".format(
                    warmup_steps, total_steps
                )
            )
        if problems:
            raise ValueError("\n".join(problems))
        self.peak = float(peak)
        self.total_steps = int(total_steps)
        self.warmup_steps = int(warmup_steps)
        self.end = float(end)
        self.name = name

    def __call__(self, step):
        """The learning rate of `step` (scalar, any numeric type), a float32 scalar."""
        with tf.name_scope(self.name):
            step = tf.cast(step, tf.float32)
            remaining = tf.maximum(self.total_steps - step, 0.0)
            angle = remaining * (math.pi / 2.0 / (self.total_steps - self.warmup_steps))
            decayed = self.end + (self.peak - self.end) * tf.square(tf.sin(angle))
            if not self.warmup_steps:
                return decayed
            rising = self.peak * (step + 1.0) / self.warmup_steps
            return tf.where(step < self.warmup_steps, rising, decayed)

    def get_config(self):
        """The arguments of the constructor."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "end": self.end,
            "name": self.name,
        }
