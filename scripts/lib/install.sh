# shellcheck shell=bash
# Sourced: brings a fresh Debian 12 or 13 machine to where this repository's scripts work; quick when nothing is missing.
# What cannot be had is said, with its cure, and left out; only without Python there is no going on.

# shellcheck source=scripts/lib/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/lib/apt.sh
source "$ROOT/scripts/lib/apt.sh"

BASE_PACKAGES=(ca-certificates python3-venv util-linux)
RUN_PACKAGES=(clang llvm libbpf-dev linux-libc-dev make mosquitto nodejs npm iproute2 mount)
TEST_PACKAGES=(python3-bpfcc tinyproxy-bin)
CHECK_PACKAGES=(clang-format shellcheck nodejs npm)

# A Python that the locks are made for and that can make virtual environments.
pick_python() {
    local candidate
    for candidate in ${FEDGE_PYTHON:+"$FEDGE_PYTHON"} python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
        then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

make_venv() {
    local python
    if ! python=$(pick_python); then
        say "no Python 3.11, 3.12 or 3.13 with ensurepip here"
        say "cure: apt-get install python3-venv (Debian 12 or later), or FEDGE_PYTHON=/path/to/python3.11"
        return 1
    fi
    rm -f "$CACHE/stamps/python"
    say "making .venv with $("$python" --version) ($python)"
    logged venv "remove $VENV and try again" "$python" -m venv --clear "$VENV"
}

pip_install() {
    "$PYTHON" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"
}

# The lock's own setuptools comes first: one dependency is published as source only and is built with it, so that
# nothing unlocked is ever fetched.
pip_install_all() {
    local build=$CACHE/setuptools.txt
    awk '/^setuptools==/ {on = 1} on {print} on && !/\\$/ {exit}' "$ROOT/requirements/dev.txt" >"$build" &&
        pip_install --require-hashes -r "$build" &&
        pip_install --no-build-isolation --require-hashes -r "$ROOT/requirements/dev.txt" &&
        pip_install --no-deps --require-hashes -r "$ROOT/requirements/dataset.txt" &&
        pip_install --no-deps --no-build-isolation --editable "$ROOT"
}

install_python() {
    local version hash
    "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || make_venv || return
    version=$("$PYTHON" --version)
    hash=$(hash_of "$version" "$ROOT" -- "$ROOT"/requirements/{dev,dataset}.txt "$ROOT/pyproject.toml")
    stamped python "$hash" && return
    say "installing Python packages from requirements/dev.txt"
    logged python "see the log; with no way to the package index, set PIP_INDEX_URL to a mirror" pip_install_all || return
    stamp python "$hash"
}

install_npm() {
    local hash
    hash=$(hash_of "$ROOT" -- "$ROOT/contracts/package-lock.json")
    [[ -d $ROOT/contracts/node_modules ]] && stamped npm "$hash" && return
    if ! have node || ! have npm; then
        say "no contracts' toolchain (forge, anvil): node and npm are missing (apt-get install nodejs npm)"
        return 0
    fi
    # Not optional dependencies: npm leaves those out, without a word, for the Node.js of Debian 12, which they do not need.
    local parts=()
    [[ $(uname -m) == x86_64 ]] || parts=(--omit=dev)
    say "installing the contracts' toolchain: forge, anvil, solc"
    logged npm "see the log; \`npm ci\` in contracts/ by hand shows more" \
        npm ci --prefix "$ROOT/contracts" --ignore-scripts --no-audit --no-fund "${parts[@]}" || return 0
    stamp npm "$hash"
}

build_bpf() {
    if ! have clang || ! have llvm-strip || ! have make; then
        say "no BPF objects: clang, llvm-strip or make is missing (apt-get install clang llvm libbpf-dev make)"
        return 0
    fi
    logged bpf "apt-get install clang llvm libbpf-dev linux-libc-dev make, then make -C bpf" make -s -C "$ROOT/bpf" || true
}

# install_all PURPOSE...: Python always; `run` adds what the system itself needs, `test` what only its tests
# do, `check` the linters.
install_all() {
    local purpose packages=("${BASE_PACKAGES[@]}")
    mkdir -p "$CACHE"
    for purpose; do
        case $purpose in
        run) packages+=("${RUN_PACKAGES[@]}") ;;
        test) packages+=("${TEST_PACKAGES[@]}") ;;
        check) packages+=("${CHECK_PACKAGES[@]}") ;;
        *) die "install_all: no purpose is called $purpose" 2 ;;
        esac
    done
    {
        if have flock; then
            flock 9 # one installation at a time
        fi
        need_packages "${packages[@]}"
        install_python || return
        (($# == 0)) || install_npm
        [[ " $* " != *" run "* ]] || build_bpf
    } 9>"$CACHE/install.lock"
}

# The contracts' forge, or nothing.
forge_binary() {
    local found
    found=$(compgen -G "$ROOT/contracts/node_modules/@foundry-rs/forge-*/bin/forge" | head -n 1)
    [[ -n $found ]] || found=$(command -v "$ROOT/contracts/node_modules/.bin/forge")
    [[ -n $found ]] && printf '%s\n' "$found"
}
