#!/usr/bin/env bash
# One command checks everything: see --help.

here=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
checkout=$(dirname -- "$here")
no_python=77
all_stacks="tf115 tf265 tf215 tf221 tf221-legacy"

usage() {
    cat <<'TEXT'
usage: bash test/run_tests.sh [--stack=NAME | --all-stacks] [--jobs=N] [--adapter=fake|real] [--no-lint] [pytest arguments]

Checks style and types, compiles everything with a real Python 3.7 if the machine has one, and runs the tests.
Environments are made on first use in .venv (see test/env.sh) and reused.

  (nothing)        the tests run on the TensorFlow at hand, else on an environment made for the Python at hand
  --stack=NAME     the tests run on tf115 (TF 1.15.5), tf265 (2.6.5), tf215 (2.15.1), tf221 (2.21, Keras 3)
                   or tf221-legacy (2.21 with TF_USE_LEGACY_KERAS=1)
  --all-stacks     the tests run on each of them whose Python is on this machine; the others are named as not run.
                   Tests that need no TensorFlow, or no Keras, run on those stacks that differ in what they need
  --jobs=N         so many stacks at a time with --all-stacks (default: 2, or 1 on a single core)
  --adapter=real   the contract tests use the npu_bridge or npu_device installed here, not the fakes
  --no-lint        no style, type and Python 3.7 checks

All other arguments go to pytest: bash test/run_tests.sh --stack=tf115 test/test_swa.py -k weights
Exit status: 0 when all that ran has passed, 1 otherwise, 2 for a wrong argument.
TEXT
}

usage_error() {
    echo "run_tests.sh: $1" >&2
    exit 2
}

# Sourced with arguments of its own, or a sourced file would see ours.
use_env() { . "$here/env.sh" "$1"; }

parse() {
    stack= all= jobs= lint=1 pytest_args=()
    local argument
    for argument in "$@"; do
        case $argument in
            -h | --help) usage && exit 0 ;;
            --all-stacks) all=1 ;;
            --no-lint) lint= ;;
            --stack=*) stack=${argument#*=} ;;
            --jobs=*) jobs=${argument#*=} ;;
            --adapter=fake | --adapter=real) pytest_args+=("$argument") ;;
            --adapter=* | --adapter) usage_error "--adapter must be fake or real. Received: $argument" ;;
            --stack | --jobs) usage_error "$argument needs a value: $argument=..." ;;
            *) pytest_args+=("$(absolute "$argument")") ;;
        esac
    done
    case " $all_stacks " in *" ${stack:-tf115} "*) ;; *) usage_error "--stack must be one of $all_stacks. Received: $stack" ;; esac
    [ -z "$stack" ] || [ -z "$all" ] || usage_error "--stack and --all-stacks exclude each other."
    [ -n "$jobs" ] || jobs=$(($(cores) > 1 ? 2 : 1))
    case $jobs in *[!0-9]* | 0) usage_error "--jobs must be a positive number. Received: --jobs=$jobs" ;; esac
}

cores() { nproc 2>/dev/null || getconf _NPROCESSORS_ONLN; }

# Tests are run from the checkout; a path given from elsewhere is meant from there.
absolute() {
    case $1 in
        /* | -*) printf '%s\n' "$1" ;;
        *) [ -e "${1%%::*}" ] && printf '%s/%s\n' "$PWD" "$1" || printf '%s\n' "$1" ;;
    esac
}

# --- style, types, Python 3.7 --------------------------------------------------------------------------------------

check() { # title, command...
    echo "--- $1"
    "${@:2}" </dev/null || failed="$failed, $1"
}

run_lint() {
    local failed= script
    cd "$checkout" || return 1
    use_env lint
    case $? in
        0)
            check "ruff check" "$PYTHON" -m ruff check .
            check "ruff format" "$PYTHON" -m ruff format --check .
            check "mypy" "$PYTHON" -m mypy ascend_keras examples
            ;;
        3) echo "--- ruff, mypy: not run, they need a Python from 3.9 to 3.13" ;;
        *) failed=", environment of the checkers" ;;
    esac
    for script in .ci/run test/*.sh; do check "bash -n $script" bash -n "$script"; done
    compile_py37
    [ -n "$failed" ] || return 0
    echo "--- failed: ${failed#, }"
    return 1
}

compile_py37() {
    local python
    python=$(use_env functions && _ak_find_python 3.7) || {
        echo "--- compile with Python 3.7: not run, no Python 3.7 on this machine"
        return
    }
    check "compile with Python 3.7" "$python" -W error -c '
import pathlib, sys
files = [path for folder in sys.argv[1:] for path in sorted(pathlib.Path(folder).rglob("*.py"))]
for path in files:
    compile(path.read_bytes(), str(path), "exec")
print(len(files), "files compile with", sys.version.split()[0])' ascend_keras examples test
}

# --- tests ---------------------------------------------------------------------------------------------------------

run_pytest() { # name for people, stack or nothing
    cd "$checkout" || return 1
    use_env "$2" || return $(($? == 3 ? no_python : 1))
    export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
    echo "--- pytest on $1: $PYTHON"
    "$PYTHON" -m pytest -o cache_dir=".pytest_cache/$1" ${all:+--one-of-all="$1"} ${pytest_args[@]+"${pytest_args[@]}"} </dev/null
}

# Runs a part of the whole; leaves its output in $work/NAME.out and "result<tab>seconds" in $work/NAME.result.
run_part() { # name, command...
    local name=$1 began=$SECONDS status result
    shift
    ("$@") 2>&1 | if [ -n "$shown" ]; then tee "$work/$name.out"; else cat >"$work/$name.out"; fi
    status=${PIPESTATUS[0]}
    result=$(sed -n 's/^=*[ ]*\(.* in [0-9.]*s\( ([0-9:]*)\)\{0,1\}\)[ ]*=*$/\1/p; s/^--- failed: //p' "$work/$name.out" | tail -n 1)
    case $status in
        0) result="passed${result:+: $result}" ;;
        "$no_python") result="not run: $(grep '^\[env\] No Python' "$work/$name.out" | cut -d ' ' -f 2-)" ;;
        *) result="FAILED${result:+: $result}" ;;
    esac
    printf '%s\t%s\n' "$result" $((SECONDS - began)) >"$work/$name.partial"
    mv -- "$work/$name.partial" "$work/$name.result"
}

# A lane takes the next stack that no other lane has taken.
run_lane() {
    local name
    for name in $all_stacks; do
        mkdir "$work/$name.taken" 2>/dev/null && run_part "$name" run_pytest "$name" "$name"
    done
}

run_lanes() {
    local name lane lanes=() threads=$(($(cores) / jobs))
    shown=
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
    set -m # each lane its own process group, so that an interrupt can end it with all that it started
    for ((lane = 0; lane < jobs; lane++)); do
        run_lane &
        lanes+=($!)
    done
    set +m
    trap 'for lane in "${lanes[@]}"; do kill -TERM -- "-$lane" 2>/dev/null; done; exit 130' INT TERM
    for name in $all_stacks; do
        until [ -e "$work/$name.result" ] || ! kill -0 "${lanes[@]}" 2>/dev/null; do sleep 0.3; done
        cat "$work/$name.out"
    done
    wait
    trap - INT TERM
}

table() { # names...
    local name result seconds status=0
    printf '\n%-14s %8s  %s\n' part seconds result
    for name in "$@"; do
        IFS=$'\t' read -r result seconds <"$work/$name.result" || result="FAILED: it was ended"
        printf '%-14s %8s  %s\n' "$name" "$seconds" "$result"
        case $result in FAILED*) status=1 ;; esac
        case $name:$result in lint:* | *:"not run"*) ;; *) tested=1 ;; esac
    done
    return $status
}

main() {
    parse "$@"
    local parts=() tested= status=0
    # What the user's shell holds for training must not steer the tests.
    unset ASCEND_KERAS_STACK
    export ASCEND_KERAS_NEEDS="${ASCEND_KERAS_NEEDS:-} pytest skimage hypothesis"
    work=$(mktemp -d "${TMPDIR:-/tmp}/run_tests.XXXXXX") || exit 1
    trap 'rm -rf -- "$work"' EXIT
    shown=1
    [ -z "$lint" ] || { parts+=(lint) && run_part lint run_lint; }
    if [ -n "$all" ]; then
        parts+=($all_stacks)
        if [ "$jobs" -gt 1 ]; then run_lanes; else run_lane; fi
    else
        parts+=("${stack:-at-hand}")
        run_part "${stack:-at-hand}" run_pytest "${stack:-at-hand}" "$stack"
    fi
    table "${parts[@]}" || status=1
    [ -n "$tested" ] || { echo "No test was run." && status=1; }
    exit $status
}

main "$@"
