"""Peak memory of the paths of bench_swa_cost.py, which starts this in an environment where freed memory is given back.

Prints a JSON object: {path: bytes beyond what the process held before}, the worst of three times.
"""

import argparse
import json
import os

import common
import swa_cost_average as average


def main():
    """Measures all paths over one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=60060000)
    parser.add_argument("--tensors", type=int, default=120)
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    missing = [name for name, value in common.FREEING.items() if os.environ.get(name) != value]
    if missing:
        parser.error("must be started with {}. Received: other values of {}.".format(common.FREEING, missing))
    common.set_threads(flags.threads)
    paths = average.paths(average.dense_model(flags.parameters, flags.tensors))
    peaks = common.interleaved(paths, 3, common.transient_bytes)
    print(json.dumps({name: int(peak.max()) for name, peak in peaks.items()}))


if __name__ == "__main__":
    main()
