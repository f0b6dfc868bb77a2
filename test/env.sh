# Finds or makes the Python that the scripts beside this file use. To be sourced by bash:
#
#   . test/env.sh [STACK]        STACK: tf115 tf265 tf215 tf221 tf221-legacy, or lint for the checkers
#
# Without STACK (or ASCEND_KERAS_STACK): the Python at hand ($PYTHON, else python3) if it has TensorFlow 1.15, 2.6 or
# newer and what the recipes need; else a virtual environment for it, made once and reused.
# On an NPU host the Python at hand is used as it is, and nothing is installed, unless STACK asks for its own environment.
#
# Sets PYTHON and PYTHONPATH; TF_USE_LEGACY_KERAS for tf221-legacy.
# Returns 0, or 1 with the reason on stderr, or 3 when the machine has no Python for STACK.
# Reads ASCEND_KERAS_VENV_DIR (default <checkout>/.venv), ASCEND_KERAS_STACK, ASCEND_KERAS_NEEDS (more modules needed).

_ak_checkout=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

_ak_say() { printf '[env] %s\n' "$*" >&2; }

_ak_versions() { # of Python, best first, that have STACK's packages
    case $1 in
        tf115) echo 3.7 ;;
        tf265) echo 3.9 3.8 ;;
        tf215) echo 3.11 3.10 3.9 ;;
        tf221) echo 3.11 3.12 3.10 3.13 ;;
        lint) echo 3.11 3.12 3.10 3.13 3.9 ;;
    esac
}

_ak_packages() {
    case $1 in
        lint) echo ruff mypy ;;
        tf221) echo tensorflow tf_keras absl-py scikit-learn scikit-image keras-swa matplotlib pytest hypothesis ;;
        *) echo tensorflow absl-py scikit-learn scikit-image keras-swa matplotlib pytest hypothesis ;;
    esac
}

_ak_stack_for() { # the stack of a Python version
    case $1 in
        3.7) echo tf115 ;;
        3.8 | 3.9) echo tf265 ;;
        3.10 | 3.11 | 3.12 | 3.13) echo tf221 ;;
    esac
}

_ak_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Prints the path of an interpreter of version $1 that can make virtual environments.
_ak_find_python() {
    local version=$1 candidate
    while IFS= read -r candidate; do
        [ -n "$candidate" ] || continue
        # A pyenv shim is on PATH for every version installed and fails for those not switched on: run it to know.
        "$candidate" - "$version" 2>/dev/null <<'PY' && return 0
import importlib.util, sys
fits = "%d.%d" % sys.version_info[:2] == sys.argv[1]
sys.exit(1) if not (fits and any(map(importlib.util.find_spec, ("ensurepip", "virtualenv")))) else print(sys.executable)
PY
    done < <(
        [ -z "${PYTHON:-}" ] || type -P -- "$PYTHON"
        type -P python3
        type -aP "python$version"
        ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python /usr/local/python"$version"*/bin/python3 2>/dev/null
    )
    return 1
}

_ak_on_npu_host() {
    local name
    for name in ASCEND_TOOLKIT_HOME ASCEND_HOME_PATH ASCEND_OPP_PATH ASCEND_AICPU_PATH ASCEND_INSTALL_PATH; do
        [ -z "${!name:-}" ] || return 0
    done
    [ ! -d /usr/local/Ascend ] || return 0
    [ -n "$1" ] && "$1" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("npu_bridge") or u.find_spec("npu_device")))' 2>/dev/null
}

# CANN's own set_env.sh files, once: sourcing them twice doubles every path.
_ak_source_cann() {
    local file unset_is_error=
    [ -z "${ASCEND_OPP_PATH:-}" ] || return 0
    case $- in *u*) unset_is_error=1 && set +u ;; esac
    for file in "${ASCEND_HOME_PATH:-}" "${ASCEND_TOOLKIT_HOME:-}" /usr/local/Ascend/{cann,ascend-toolkit,nnae} ~/Ascend/{cann,ascend-toolkit}; do
        if [ -n "$file" ] && [ -r "$file/set_env.sh" ]; then
            _ak_say "sourcing $file/set_env.sh"
            . "$file/set_env.sh"
            [ ! -r "$file/../tfplugin/set_env.sh" ] || . "$file/../tfplugin/set_env.sh"
            break
        fi
    done
    [ -z "$unset_is_error" ] || set -u
}

# 0: Python $1 has a TensorFlow we know and the modules $2...; else prints what it lacks. 4: it has no TensorFlow at all.
_ak_inspect() {
    TF_CPP_MIN_LOG_LEVEL=3 "$@" <<'PY'
import importlib.util, sys
if importlib.util.find_spec("tensorflow") is None:
    print("no TensorFlow")
    sys.exit(4)
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
if missing:
    print("TensorFlow, but not " + ", ".join(missing))
    sys.exit(1)
try:
    import tensorflow
    version = tuple(int(part) for part in tensorflow.__version__.split(".")[:2])
except Exception as error:
    print("a TensorFlow that cannot be imported: " + str(error).strip().splitlines()[-1][:200])
    sys.exit(1)
if version != (1, 15) and version < (2, 6):
    print("TensorFlow %d.%d, where 1.15 or at least 2.6 is needed" % version)
    sys.exit(1)
PY
}

_ak_at_hand() {
    local python=$1 lacks version stack candidate npu=
    if _ak_on_npu_host "$python"; then
        npu=1
        _ak_source_cann
    fi
    if [ -n "$python" ]; then
        if [ -n "$npu" ]; then
            lacks=$(_ak_inspect "$python" - absl ${ASCEND_KERAS_NEEDS:-}) && { PYTHON=$python && return 0; }
        else
            lacks=$(_ak_inspect "$python" - absl sklearn ${ASCEND_KERAS_NEEDS:-}) && { PYTHON=$python && return 0; }
        fi
    fi
    if [ -n "$npu" ]; then
        _ak_say "This is an NPU host, and ${python:-python3} has ${lacks:-not been found}. Nothing is installed here, since pip"
        _ak_say "would break the adapter's TensorFlow. Activate the environment of the adapter or set PYTHON=<its python>;"
        _ak_say "for a run on the host's CPU ask for an environment by name: ASCEND_KERAS_STACK=tf115|tf265|tf215|tf221."
        return 1
    fi
    case $lacks in "" | "no TensorFlow") ;; *) _ak_say "$python has $lacks: using an environment of this project" ;; esac
    version=$([ -z "$python" ] || _ak_version "$python")
    for candidate in $version 3.11 3.12 3.10 3.13 3.9 3.8 3.7; do
        stack=$(_ak_stack_for "$candidate")
        if [ -n "$stack" ] && { _ak_is_ready "$stack" || _ak_find_python "$candidate" >/dev/null; }; then
            _ak_environment "$stack" "$candidate"
            return
        fi
    done
    _ak_say "No Python from 3.7 to 3.13 that can make virtual environments was found. Received: PYTHON=${python:-python3}"
    _ak_say "(version ${version:-none}). Install one (on Debian: apt-get install python3 python3-venv) or name it with PYTHON=."
    return 3
}

_ak_base() { printf '%s\n' "${ASCEND_KERAS_VENV_DIR:-$_ak_checkout/.venv}"; }

_ak_stamp() { # what the environment of stack $1 is made from
    { _ak_packages "$1" && cat "$_ak_checkout/test/constraints/$1.txt"; } | cksum
}

_ak_is_ready() { # the environment of stack $1
    local dir
    dir=$(_ak_base)/$1
    [ "$(cat "$dir/.stamp" 2>/dev/null)" = "$(_ak_stamp "$1")" ] && "$dir/bin/python" -c '' 2>/dev/null
}

_ak_build() {
    local stack=$1 python=$2 dir log packages
    dir=$(_ak_base)/$stack log=$(_ak_base)/$stack.log packages=$(_ak_packages "$stack")
    if [ -e "$dir" ] && { [ -e "$dir/.making" ] || ! "$dir/bin/python" -c '' 2>/dev/null; }; then
        if [ ! -e "$dir/.making" ] && [ ! -e "$dir/pyvenv.cfg" ]; then
            _ak_say "$dir is in the way and is no virtual environment. Move it, or set ASCEND_KERAS_VENV_DIR."
            return 1
        fi
        _ak_say "$dir was left half made: making it anew"
        rm -rf -- "$dir"
    fi
    if [ "$stack" = lint ]; then
        _ak_say "installing ruff and mypy for $python into $dir, some seconds, once"
    else
        _ak_say "installing TensorFlow (stack $stack) for $python into $dir: up to 1 GB to fetch, some minutes, once"
    fi
    mkdir -p -- "$dir" && : >"$dir/.making" || return 1
    {
        { [ -x "$dir/bin/python" ] || "$python" -m venv "$dir" || "$python" -m virtualenv "$dir"; } &&
            "$dir/bin/python" -m pip install "pip>=21.3" &&
            "$dir/bin/python" -m pip install -c "$_ak_checkout/test/constraints/$stack.txt" $packages &&
            { [ "$stack" = lint ] || TF_CPP_MIN_LOG_LEVEL=3 "$dir/bin/python" -c 'import absl, sklearn, tensorflow'; }
    } >"$log" 2>&1 </dev/null || {
        grep -v '^WARNING' "$log" | tail -n 25 >&2
        _ak_say "the environment $stack could not be made; the whole output is in $log"
        return 1
    }
    _ak_stamp "$stack" >"$dir/.stamp" && rm -f -- "$dir/.making"
}

# Runs "$@" while holding the lock file $1, so that two scripts started together make one environment.
_ak_locked() {
    local lock=$1 status=0
    shift
    if type -P flock >/dev/null; then
        ( flock 9 && "$@" 9>&- ) 9>"$lock"
        return
    fi
    until mkdir "$lock.d" 2>/dev/null; do
        kill -0 "$(cat "$lock.d/pid" 2>/dev/null || echo $$)" 2>/dev/null || rm -rf -- "$lock.d"
        sleep 1
    done
    echo $$ >"$lock.d/pid"
    "$@" || status=$?
    rm -rf -- "$lock.d"
    return $status
}

_ak_build_unless_ready() { _ak_is_ready "$1" || _ak_build "$@"; }

_ak_environment() { # stack [version of Python]
    local stack=$1 base python= version
    base=$(_ak_base)
    mkdir -p -- "$base" || {
        _ak_say "No environment can be made in $base. Set ASCEND_KERAS_VENV_DIR to a folder that can be written."
        return 1
    }
    if ! _ak_is_ready "$stack"; then
        for version in ${2:-$(_ak_versions "$stack")}; do
            python=$(_ak_find_python "$version") && break
        done
        if [ -z "$python" ]; then
            _ak_say "No Python for the stack $stack on this machine: it needs one of $(_ak_versions "$stack") with the venv module."
            return 3
        fi
        _ak_locked "$base/$stack.lock" _ak_build_unless_ready "$stack" "$python" || return 1
    fi
    PYTHON=$base/$stack/bin/python
}

_ak_prepare() {
    case $1 in
        "")
            if [ -n "${PYTHON:-}" ] && ! type -P -- "$PYTHON" >/dev/null; then
                _ak_say "There is no such Python. Received: PYTHON=$PYTHON. Name an interpreter, or unset PYTHON."
                return 1
            fi
            _ak_at_hand "$(type -P -- "${PYTHON:-python3}" || type -P python)" || return
            ;;
        functions) return ;; # for a script that only asks what is there
        tf115 | tf265 | tf215 | tf221 | tf221-legacy | lint) _ak_environment "${1%-legacy}" || return ;;
        *) _ak_say "Unknown stack. Received: $1. Known are tf115, tf265, tf215, tf221, tf221-legacy." && return 1 ;;
    esac
    case $1 in
        tf221-legacy) export TF_USE_LEGACY_KERAS=1 ;;
        tf*) unset TF_USE_LEGACY_KERAS ;;
    esac
    case ":${PYTHONPATH:-}:" in
        *":$_ak_checkout:"*) ;;
        *) export PYTHONPATH="$_ak_checkout${PYTHONPATH:+:$PYTHONPATH}" ;;
    esac
    export PYTHON
}

_ak_prepare "${1:-${ASCEND_KERAS_STACK:-}}"
