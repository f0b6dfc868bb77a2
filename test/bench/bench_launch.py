"""What `ascend-keras launch -n 8` costs, beyond the starts of the eight interpreters that anyone needs.

    python test/bench/bench_launch.py [--ranks 8] [--rounds 15] [--limit 0.3]

Each round measures in turn, wall clock, from start to exit status:
    bare    N times `python script.py` at once, with a script of one line, from an interpreter that runs already
    launch  `python -m ascend_keras launch -n N script.py`
    help    `python -m ascend_keras launch --help`, which is the command line alone

Overhead is the median of launch minus bare, round by round. Exit status 1 if it is above the limit, in seconds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def seconds(run):
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def together(command, count):
    for process in [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(count)]:
        if process.wait():
            raise RuntimeError("{} failed".format(command))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, default=0.3)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = ROOT
    measured = {"bare": [], "launch": [], "help": []}
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        script = os.path.join(folder, "script.py")
        with open(script, "w") as file:
            file.write("pass\n")
        cli = [sys.executable, "-m", "ascend_keras", "launch"]
        launch = cli + ["-n", str(arguments.ranks), "--backend=host", "--log-dir=" + folder, script]
        quiet = dict(stdout=nowhere, stderr=nowhere, check=True)
        for _ in range(arguments.rounds):
            measured["bare"].append(seconds(lambda: together([sys.executable, script], arguments.ranks)))
            measured["launch"].append(seconds(lambda: subprocess.run(launch, **quiet)))
            measured["help"].append(seconds(lambda: subprocess.run(cli + ["--help"], **quiet)))
    overhead = statistics.median(both - bare for both, bare in zip(measured["launch"], measured["bare"]))
    print("Python {}, {} cores, load {:.1f}".format(sys.version.split()[0], os.cpu_count(), os.getloadavg()[0]))
    for name, values in measured.items():
        print(
            "{:<7} median {:.3f} s  (from {:.3f} to {:.3f})".format(
                name, statistics.median(values), min(values), max(values)
            )
        )
    print("overhead of {} ranks: {:.3f} s, limit {:g} s".format(arguments.ranks, overhead, arguments.limit))
    return 0 if overhead <= arguments.limit else 1


if __name__ == "__main__":
    sys.exit(main())
