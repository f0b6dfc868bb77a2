#!/usr/bin/env bash
# Trains a recipe for its speed on one NPU, or on this host: bash test/train_performance_1p.sh --data_path=./ ; see --help.

. "$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/train_common.sh"
run_script perf "$@"
