#!/usr/bin/env bash
# Trains a recipe to full accuracy on several NPUs, or in as many processes here: bash test/train_full_8p.sh --data_path=./ ; see --help.

. "$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/train_common.sh"
run_script acc_8p "$@"
