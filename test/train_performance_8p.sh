#!/usr/bin/env bash
# Trains a recipe for its speed on several NPUs, or in as many processes here: bash test/train_performance_8p.sh --data_path=./ ; see --help.

. "$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/train_common.sh"
run_script perf_8p "$@"
