# What the training scripts share. To be sourced by them.

here=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

die() {
    printf '[Error] %s\n' "$1" >&2
    exit "${2:-1}"
}

# Sourced with an argument of its own, or env.sh would see those of the script.
use_env() { . "$here/env.sh" "${1:-}"; }

# run_script KIND [flags]: what recipes/scripts.py says of the kind, with these flags.
run_script() {
    local verb=train doing=training
    [ "$1" != eval ] || verb=eval doing=evaluation
    export ASCEND_KERAS_START
    ASCEND_KERAS_START=$(date +%s)
    local announcement script device output overwrite resume cores flags=() launch=() plan
    plan=$(read_command_line "$@") || die "the command line could not be read"
    # Either assigns the variables above, or prints a message and exits.
    eval "$plan"
    echo "$announcement"
    use_env || exit 1
    export JOB_ID=${JOB_ID:-10087}
    export ASCEND_GLOBAL_LOG_LEVEL=${ASCEND_GLOBAL_LOG_LEVEL:-3} TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
    # A former run is not touched for ranks that cannot be started.
    [ "${#launch[@]}" -eq 0 ] || "$PYTHON" -m ascend_keras launch --dry-run "${launch[@]}" "$script" >/dev/null || exit 2
    # What is resumed stays where it is.
    [ "$verb" = eval ] || [ -n "$resume" ] || make_room "$output"
    mkdir -p -- "$output/ckpt" || die "The output folder cannot be made. Received: --output_dir=$output."
    local command=("$PYTHON" -u)
    if [ "${#launch[@]}" -gt 0 ]; then
        command+=(-m ascend_keras launch "${launch[@]}")
    else
        [ "${RANK_SIZE:-1}" = 1 ] || echo "RANK_SIZE=$RANK_SIZE is not used: this script trains on one device"
        export RANK_SIZE=1 ASCEND_DEVICE_ID=$device
        unset TF_CONFIG
    fi
    if [ -n "$cores" ]; then
        type -P taskset >/dev/null || die "--bind_core needs taskset, of the package util-linux."
        echo "bound to the cores $cores"
        command=(taskset -c "$cores" "${command[@]}")
    fi
    run_logged "$output/${verb}_$device.log" "${command[@]}" "$script" "${flags[@]}"
}

# Wrong flags are found before anything is installed: any Python will do for that.
read_command_line() {
    local python
    python=$(type -P -- "${PYTHON:-python3}") && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2>/dev/null || {
        use_env || return
        python=$PYTHON
    }
    PYTHONPATH=$(dirname -- "$here")${PYTHONPATH:+:$PYTHONPATH} "$python" -m ascend_keras.recipes "$@"
}

# A former run in the folder is kept under the next free number, or deleted with --overwrite; nothing else is touched.
make_room() {
    local folder=${1:?} number=1
    [ -n "$(ls -A -- "$folder" 2>/dev/null)" ] || return 0
    [ -n "$(ls -- "$folder" | grep -E '^train_.*\.log$')" ] ||
        die "The output folder holds something that is no former run. Received: --output_dir=$folder. Name another one."
    if [ -n "$overwrite" ]; then
        rm -rf -- "$folder"
        return
    fi
    while [ -e "$folder.$number" ]; do number=$((number + 1)); done
    mv -- "$folder" "$folder.$number" || die "The former run in $folder cannot be moved aside."
    echo "the former run was moved to $folder.$number"
}

# run_logged LOG COMMAND...: output is shown and logged; exits with the command's own status.
run_logged() {
    local log=$1 pipe training tee status
    shift
    pipe=$(mktemp -u "${TMPDIR:-/tmp}/train.XXXXXX") && mkfifo -m 600 -- "$pipe" || die "no pipe could be made in ${TMPDIR:-/tmp}"
    # A resumed training goes on with the log of the former one.
    tee ${resume:+-a} -- "$log" <"$pipe" &
    tee=$!
    "$@" >"$pipe" 2>&1 </dev/null &
    training=$!
    trap 'kill -TERM "$training" 2>/dev/null' INT TERM HUP
    wait "$training"
    status=$?
    # A signal ends the first wait, not the training.
    while kill -0 "$training" 2>/dev/null; do
        wait "$training"
        status=$?
    done
    wait "$tee"
    rm -f -- "$pipe"
    [ "$status" -eq 0 ] || die "the $doing failed with exit status $status; its output is in $log" "$status"
    exit 0
}
