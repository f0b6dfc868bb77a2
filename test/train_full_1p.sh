#!/usr/bin/env bash
# Trains a recipe to full accuracy on one NPU, or on this host: bash test/train_full_1p.sh --data_path=./ ; see --help.

. "$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/train_common.sh"
run_script acc "$@"
