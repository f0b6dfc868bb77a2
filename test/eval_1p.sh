#!/usr/bin/env bash
# Evaluates the checkpoints of a trained recipe: bash test/eval_1p.sh --data_path=... --output_dir=... ; see --help.

. "$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/train_common.sh"
run_script eval "$@"
