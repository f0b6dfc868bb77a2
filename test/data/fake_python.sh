#!/usr/bin/env bash
# Stands for a Python of version VERSION in test_scripts.py: answers what test/env.sh and test/run_tests.sh ask, and
# notes in $FAKE_DIR/calls what it was asked.
version=VERSION
self=$0
echo "$version $*" >>"$FAKE_DIR/calls"
case "$1 $2" in
    "- "*)
        program=$(cat)
        case $program in
            *sys.executable*) [ "$2" = "$version" ] && echo "$self" ;;
            *) cat "$FAKE_DIR/tensorflow" && [ ! -s "$FAKE_DIR/tensorflow" ] ;;
        esac
        ;;
    "-c "*)
        case $2 in
            *version_info\[:2\]*) echo "$version" ;;
            *npu_bridge*) [ -e "$FAKE_DIR/has_adapter" ] ;;
        esac
        ;;
    "-m venv")
        [ ! -e "$FAKE_DIR/venv_fails" ] || exit 1
        mkdir -p "$3/bin" && cp "$self" "$3/bin/python" && : >"$3/pyvenv.cfg"
        ;;
    "-m pip")
        sleep 0.2
        [ ! -e "$FAKE_DIR/pip_fails" ] || { echo "ERROR: No matching distribution found" >&2 && exit 1; }
        ;;
    "-m pytest")
        case $self in */"$(cat "$FAKE_DIR/failing_stack" 2>/dev/null || echo none)"/*) echo "== 1 failed, 2 passed in 0.10s ==" && exit 1 ;; esac
        echo "legacy=$TF_USE_LEGACY_KERAS args=$*"
        echo "== 3 passed in 0.10s =="
        ;;
    "-m "*) [ ! -e "$FAKE_DIR/$2_fails" ] ;;
esac
