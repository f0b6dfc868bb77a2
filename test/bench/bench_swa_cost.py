"""What averaging costs: event, swap, batch-norm pass and memory, beside keras-swa and the limits of the machine.

    python test/bench/bench_swa_cost.py [--parameters=60060000] [--tensors=120,1200] [--rounds=15] [--threads=1]

All paths of a table are timed side by side: each round runs all of them. Ratios are of the shortest times, as whatever
else runs on a machine only adds to them; those of the medians stand beside. Memory is the peak beyond what was held
when the event began, in a process of its own that gives freed memory back at once. The limits are those of the first
number of tensors. Prints tables in Markdown; the exit status is 1 when a limit is missed.
"""

import argparse
import json
import os
import subprocess
import sys

import common
import numpy as np
import swa_cost_average as average
import swa_cost_batch_norm as batch_norm

from ascend_keras.compat import keras

# path, what it is compared with, the greatest ratio allowed
TIME_LIMITS = [
    (average.EVENT, average.GRAPH_SUM, 1.25),
    (average.EVENT, average.PEER, 0.5),
    (average.SWAP, average.SET_WEIGHTS, 0.15),
]
TIME_COMPARISONS = [
    (average.EVENT, average.ADD),
    (average.EVENT, average.MEMCPY),
    (average.EMA_EVENT, average.GRAPH_EMA),
    (average.EMA_EVENT, average.PEER),
    (average.EMA_EVENT, average.KERAS_EMA),
    (average.HOST_EVENT, average.PEER),
    (average.INSTALL, average.SET_WEIGHTS),
    (average.LEND, average.SET_WEIGHTS),
    (average.RETURN, average.SET_WEIGHTS),
    (average.SWAP, average.KERAS_SWAP),
]
# Whichever way of inference is the faster one is the reference.
PASS_LIMIT = 1.5
PASS_COMPARISONS = [
    (batch_norm.REESTIMATE, batch_norm.PREDICT),
    (batch_norm.ONCE, batch_norm.PREDICT),
    (batch_norm.REESTIMATE, batch_norm.EPOCH),
    (batch_norm.ONCE, batch_norm.EPOCH),
]
MEMORY_LIMITED = [average.EVENT, average.EMA_EVENT, average.SWAP, average.INSTALL]
MEMORY_SLACK = 250e3  # bytes beyond one tensor: what the executor and Python take for themselves
MEMORY_SHOWN = [average.LEND, average.RETURN, average.HOST_EVENT, average.PEER, average.SET_WEIGHTS]
MEMORY_SHOWN += [average.KERAS_EMA, average.KERAS_SWAP]


def main():
    """Measures, prints the tables, and says by the exit status whether all limits are held."""
    flags = parse()
    run = common.Run()
    common.set_threads(flags.threads)
    missed = []
    for count, tensors in enumerate(flags.tensors):
        missed += report_average(flags, tensors, limited=count == 0)
    if flags.images:
        missed += report_batch_norm(flags)
    print(run.footer("{} rounds".format(flags.rounds), "{} threads of TensorFlow".format(flags.threads)))
    print("Missed: {}.".format("; ".join(missed)) if missed else "All limits are held.")
    return 1 if missed else 0


def parse():
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=60060000, help="float32 parameters of the model")
    parser.add_argument("--tensors", type=numbers, default=[120, 1200], help="tensors they are in; several: 120,1200")
    parser.add_argument("--images", type=int, default=1024, help="images of the batch-norm pass; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="threads of TensorFlow, inside and between operations")
    return parser.parse_args()


def numbers(text):
    """'120,1200' as a list."""
    return [int(part) for part in text.split(",")]


def report_average(flags, tensors, limited):
    """Prints the tables of the events over one model. Returns the limits that were missed."""
    keras.backend.clear_session()
    model = average.dense_model(flags.parameters, tensors)
    paths = average.paths(model)
    times = common.interleaved(paths, flags.rounds)
    size, largest = 4 * model.count_params(), 4 * max(int(np.prod(w.shape)) for w in model.trainable_weights)
    print("\n{:,} float32 parameters ({:.1f} MB) in {} tensors\n".format(size // 4, size / 1e6, tensors))
    print(common.table(["path", "min, ms", "median, ms", "least traffic, GB/s"], time_rows(times, size)))
    path_limits = [(path, reference, limit if limited else None) for path, reference, limit in TIME_LIMITS]
    rows, missed = ratio_rows(times, path_limits + [pair + (None,) for pair in TIME_COMPARISONS])
    more, too_large = memory_rows(memory(flags, tensors), largest, limited)
    print("\n" + common.table(["path", "compared with", "ratio of min (median)", "limit", ""], rows + more))
    return missed + too_large


def report_batch_norm(flags):
    """Prints the tables of the pass. Returns the limits that were missed."""
    keras.backend.clear_session()
    times = common.interleaved(batch_norm.paths(flags.images), max(3, flags.rounds // 3))
    print("\nCNN of 6 convolutions, {} images of 32 x 32, batches of {}\n".format(flags.images, batch_norm.BATCH_SIZE))
    print(common.table(["path", "min, ms", "median, ms"], [row[:3] for row in time_rows(times, 0)]))
    fastest = min((batch_norm.PREDICT, batch_norm.LEAN), key=lambda name: times[name].min())
    limits = [(batch_norm.REESTIMATE, fastest, PASS_LIMIT)]
    comparisons = [pair + (None,) for pair in PASS_COMPARISONS if pair != limits[0][:2]]
    rows, missed = ratio_rows(times, limits + comparisons)
    print("\n" + common.table(["path", "compared with", "ratio of min (median)", "limit", ""], rows))
    return missed


# Times over which each path must at least read or write all parameters.
TRAFFIC = {average.MEMCPY: 2, average.ADD: 3, average.GRAPH_SUM: 3, average.EVENT: 3, average.PEER: 3}
TRAFFIC.update({average.GRAPH_EMA: 3, average.EMA_EVENT: 3, average.KERAS_EMA: 3, average.HOST_EVENT: 3})


def time_rows(times, size):
    """A row for each path: its shortest time, the median, and the traffic that this amounts to."""
    rows = []
    for name, seconds in times.items():
        traffic = "{:.1f}".format(TRAFFIC[name] * size / seconds.min() / 1e9) if name in TRAFFIC else "-"
        rows.append([name, "{:.1f}".format(1e3 * seconds.min()), "{:.1f}".format(1e3 * np.median(seconds)), traffic])
    return rows


def ratio_rows(times, comparisons):
    """A row for each (path, reference, limit or None) that was timed, and the limits that were missed."""
    rows, missed = [], []
    for path, reference, limit in comparisons:
        if path not in times or reference not in times:
            continue
        ratio = times[path].min() / times[reference].min()
        median = np.median(times[path]) / np.median(times[reference])
        rows.append([path, reference, "{:.2f} ({:.2f})".format(ratio, median)] + verdict(ratio, limit))
        missed += ["{} / {}".format(path, reference)] if limit and ratio > limit else []
    return rows, missed


def memory(flags, tensors):
    """Peaks of memory, {path: bytes}, from a process of its own."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "swa_cost_memory.py")
    given = {"parameters": flags.parameters, "tensors": tensors, "threads": flags.threads}
    command = [sys.executable, script] + ["--{}={}".format(*item) for item in given.items()]
    output = subprocess.run(command, env=dict(os.environ, **common.FREEING), stdout=subprocess.PIPE, check=True).stdout
    return json.loads(output.decode().splitlines()[-1])


def memory_rows(peaks, largest, limited):
    """A row for each path: its peak of memory in units of the largest tensor, and the limits that were missed."""
    rows, missed = [], []
    for name in [name for name in MEMORY_LIMITED + MEMORY_SHOWN if name in peaks]:
        ratio = peaks[name] / largest
        limit = 1 + MEMORY_SLACK / largest if limited and name in MEMORY_LIMITED else None
        text = "{:.2f} ({:.1f} MB)".format(ratio, peaks[name] / 1e6)
        rows.append(["memory of " + name, "largest tensor", text] + verdict(ratio, limit))
        missed += ["memory of " + name] if limit and ratio > limit else []
    return rows, missed


def verdict(ratio, limit):
    """The cells for the limit and for whether it is held."""
    return ["-", "-"] if limit is None else ["{:.3g}".format(limit), "held" if ratio <= limit else "**missed**"]


if __name__ == "__main__":
    sys.exit(main())
