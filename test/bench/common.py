"""What the benchmarks share: where they run, tables in Markdown, timing side by side, peak memory.

Importing it lets a benchmark import ascend_keras from this checkout, wherever it is started.
"""

import ctypes
import datetime
import gc
import os
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)


def machine():
    """Number of cores and name of the processor."""
    name = "unknown processor"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return "{} cores of {}".format(os.cpu_count(), name)


def command():
    """The command line of this run, from the root of the checkout."""
    return " ".join(["python", os.path.relpath(os.path.abspath(sys.argv[0]), ROOT)] + sys.argv[1:])


class Run:
    """Start, load and end of a benchmark, for the lines below its table."""

    def __init__(self):
        self._began = time.time()
        self._load = os.getloadavg()[0]

    def seconds(self):
        """Seconds since the start."""
        return time.time() - self._began

    def footer(self, *facts):
        """Facts, stack, machine, load average over a minute, date, duration; and the command in a line of its own."""
        from ascend_keras import compat

        load = "load average {:.1f} before and {:.1f} after".format(self._load, os.getloadavg()[0])
        parts = list(facts) + [compat.stack_name(), machine(), load, str(datetime.date.today())]
        return "\n{}, {:.0f} s:\n`{}`\n".format(", ".join(parts), self.seconds(), command())


def table(header, rows):
    """A Markdown table of strings."""
    lines = [header, ["---"] * len(header)] + list(rows)
    return "\n".join("| {} |".format(" | ".join(line)) for line in lines)


def spread(values, digits=4):
    """Mean and standard deviation over the seeds: '0.9629 ± 0.0029'; a dash where there are none."""
    if not len(values):
        return "-"
    deviation = "{:.{}f}".format(np.std(values, ddof=1), digits) if len(values) > 1 else "?"
    return "{:.{}f} ± {}".format(np.mean(values), digits, deviation)


def set_threads(number):
    """Lets TensorFlow compute with so many threads. Before its first operation."""
    from ascend_keras.compat import tf

    tf.config.threading.set_intra_op_parallelism_threads(number)
    tf.config.threading.set_inter_op_parallelism_threads(number)


def shuffled(x, y, batch_size, seed):
    """Arguments of `model.fit`, so that each epoch has an order of its own.

    Arrays; on Keras 3 a dataset, as `fit` there, once TensorFlow has a seed, repeats the order of the first epoch.
    """
    from ascend_keras import compat
    from ascend_keras.compat import tf

    if not compat.KERAS3:
        return dict(x=x, y=y, batch_size=batch_size)
    order = tf.data.Dataset.range(len(x)).shuffle(len(x), seed=seed).batch(batch_size)
    return dict(x=order.map(lambda indices: (tf.gather(x, indices), tf.gather(y, indices))))


def compile_options():
    """For `model.compile`: no XLA, the default of Keras 3, whose compilation takes longer than these trainings."""
    from ascend_keras import compat

    return dict(jit_compile=False) if compat.KERAS3 else {}


def interleaved(paths, rounds, measure=None):
    """Measures paths side by side: each round runs all of them once, so that a disturbance meets all alike.

    Args:
        paths: {name: function}, or {name: (preparation, function)} where something must come before, unmeasured.
        rounds: number of rounds. One more comes first and is not counted.
        measure: a function of a function that runs it and returns a number; `seconds` by default.

    Returns:
        {name: array of numbers, one a round}.
    """
    found = {name: [] for name in paths}
    for count in range(rounds + 1):
        for name, path in paths.items():
            prepare, action = path if isinstance(path, tuple) else (None, path)
            if prepare:
                prepare()
            number = (measure or seconds)(action)
            if count:
                found[name].append(number)
    return {name: np.array(numbers) for name, numbers in found.items()}


def seconds(action):
    """Seconds that an action takes."""
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        action()
        return time.perf_counter() - began
    finally:
        gc.enable()


# For `transient_bytes`, in the environment of a process before it starts: what is freed goes back to the system at
# once. The allocator of oneDNN would keep it for itself; glibc then does so with pieces of less than 64 kB only.
FREEING = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def transient_bytes(action):
    """Memory that an action needs at its peak, beyond what the process holds when it begins. Linux with glibc only."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts over
    before = _status("VmRSS")
    action()
    return _status("VmHWM") - before


def _status(name):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))
