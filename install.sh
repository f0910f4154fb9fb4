#!/usr/bin/env bash
# Installs, starts, tests and removes ai-infra; `./install.sh --help` says how.
#
# Everything is in functions and the call is the last line, so a download that was cut short runs nothing.
# An install is built beside the one in use and takes its place by one rename: whatever fails before that
# leaves the old one working. Two installs at once take turns by a lock on the prefix.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: ./install.sh [--up [REPO]] [--service]     install; start; check a repository
       ./install.sh --test [PYTEST ARGUMENTS]     install what the tests need, run them
       ./install.sh --uninstall [--purge]         remove what the install made
       curl … | AI_INFRA_SOURCE=… bash [-s -- --up]

Without options: installs the missing Debian packages (as root only), the Python
environment pinned in requirements.lock (every hash checked), the program, its
link in the PATH, and completion for bash, zsh and fish. Run again, it changes
only what differs.

  --up [REPO]   then start the session and run the check-up on the git repository
                REPO (default: this source, else a small sample); its report is
                printed and its exit code passed on
  --service     then have systemd start the session at boot (root: a system unit,
                otherwise a user unit)
  --test        everything after it goes to pytest, whose exit code is passed on
  --uninstall   ends the session and removes the program; state is kept
  --purge       with --uninstall: removes the state in $AI_INFRA_HOME as well
  -h, --help    this text

environment:
  AI_INFRA_SOURCE          where the source is, when this script runs without a
                           checkout: a git address, a folder, or a .tar.gz (path
                           or http address)
  AI_INFRA_PREFIX          where to install: /opt/ai-infra for root, otherwise
                           ${XDG_DATA_HOME:-~/.local/share}/ai-infra
  AI_INFRA_BIN_DIR         folder of the link: /usr/local/bin or ~/.local/bin
  AI_INFRA_COMPLETION_DIR  folder that completion files go below:
                           /usr/local/share (fish: /etc/fish/completions) or
                           ${XDG_DATA_HOME:-~/.local/share}
  AI_INFRA_PYTHON          the Python to use, 3.11 or later
  AI_INFRA_HOME            state of the running system, ~/.ai-infra

exit codes: 0 done; 1 failed, the reason is printed and the last install still
works; 2 wrong usage; 3 packages or services are missing that only an
administrator can add (they are named); 129, 130, 143 interrupted. --up and
--test pass on the code of what they ran.
HELP
}

# ---------------------------------------------------------------- speaking

say() { printf '  %-12s %s\n' "$1" "$2"; }

die() { # CODE MESSAGE
    printf 'install.sh: %s\n' "$2" >&2
    exit "$1"
}

run_quietly() { # WHAT COMMAND...: its output is shown only when it fails
    local what=$1
    shift
    if ! "$@" >"$WORK/output" 2>&1; then
        tail -n 15 "$WORK/output" | sed 's/^/    /' >&2
        die 1 "$what failed; the lines above say why"
    fi
}

# ---------------------------------------------------------------- settings

read_arguments() {
    MODE=install UP='' REPO='' SERVICE='' PURGE='' TEST_ARGS=()
    while (($#)); do
        case $1 in
            --up)
                UP=1
                if [[ -n ${2:-} && $2 != -* ]]; then
                    REPO=$2
                    shift
                fi
                ;;
            --service) SERVICE=1 ;;
            --uninstall) MODE=uninstall ;;
            --purge) PURGE=1 ;;
            --test)
                MODE='test'
                shift
                TEST_ARGS=("$@")
                break
                ;;
            -h | --help)
                usage
                exit 0
                ;;
            *) die 2 "unknown option '$1'; --help lists what there is" ;;
        esac
        shift
    done
    if [[ $MODE != install && -n $UP$SERVICE ]]; then
        die 2 "--up and --service cannot be combined with --$MODE"
    fi
    [[ -z $PURGE || $MODE == uninstall ]] || die 2 "--purge goes with --uninstall only"
}

read_environment() {
    HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
    export HOME
    local share=${XDG_DATA_HOME:-$HOME/.local/share}
    if is_root; then
        PREFIX=${AI_INFRA_PREFIX-/opt/ai-infra}
        BIN_DIR=${AI_INFRA_BIN_DIR:-/usr/local/bin}
        COMPLETION_DIR=${AI_INFRA_COMPLETION_DIR:-/usr/local/share}
    else
        PREFIX=${AI_INFRA_PREFIX-$share/ai-infra}
        BIN_DIR=${AI_INFRA_BIN_DIR:-$HOME/.local/bin}
        COMPLETION_DIR=${AI_INFRA_COMPLETION_DIR:-$share}
    fi
    STATE=${AI_INFRA_HOME:-$HOME/.ai-infra}
    PREFIX=$(own_folder AI_INFRA_PREFIX "$PREFIX")
    STATE=$(own_folder AI_INFRA_HOME "$STATE")
    BIN_DIR=$(realpath -ms -- "$BIN_DIR")
    COMPLETION_DIR=$(realpath -ms -- "$COMPLETION_DIR")
    [[ $PREFIX != "$STATE" ]] || die 2 "AI_INFRA_PREFIX and AI_INFRA_HOME are the same folder: $PREFIX"
    PROGRAM=$PREFIX/venv/bin/ai-infra
    LINK=$BIN_DIR/ai-infra
    # What would send pip or Python elsewhere than into the environment we make.
    unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_REQUIREMENT PIP_NO_BINARY
    export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
    UMASK=$(umask)
    umask 022 # what root installs is for everybody to read
}

is_root() { ((EUID == 0)); }

# Prints the absolute path of a folder that may be filled and removed; refuses one that holds more than us.
own_folder() { # VARIABLE VALUE
    local path
    [[ -n $2 ]] || die 2 "$1 is empty; name a folder or unset it"
    [[ $2 != *$'\n'* ]] || die 2 "$1 contains a line break"
    path=$(realpath -m -- "$2")
    case $(realpath -m -- "$HOME")/ in
        "${path%/}"/*) die 2 "$1 is '$2', which holds your home; name a folder of its own" ;;
    esac
    case $path in
        / | /bin | /boot | /dev | /etc | /home | /lib | /lib64 | /media | /mnt | /opt | /proc | /root | /run) ;&
        /sbin | /srv | /sys | /tmp | /usr | /usr/bin | /usr/lib | /usr/libexec | /usr/local | /usr/sbin | /usr/share) ;&
        /usr/local/bin | /usr/local/lib | /usr/local/sbin | /usr/local/share | /var | /var/cache | /var/lib) ;&
        /var/log | /var/run | /var/spool | /var/tmp)
            die 2 "$1 is '$2', a folder of the system; name a folder of its own"
            ;;
    esac
    printf '%s\n' "$path"
}

# The folder of this script when that is a source tree, else nothing (read from a pipe, or copied alone).
find_checkout() {
    local script=${BASH_SOURCE[0]:-} folder
    [[ $script == "$0" && -f $script ]] || return 0
    folder=$(cd -- "$(dirname -- "$script")" && pwd -P)
    if is_source "$folder"; then
        printf '%s\n' "$folder"
    fi
}

is_source() { # FOLDER
    [[ -f $1/requirements.lock && -f $1/ai_infra/__init__.py ]] && grep -qs '^name = "ai-infra"' "$1/pyproject.toml"
}

# ---------------------------------------------------------------- leaving nothing half-made

begin() {
    WORK='' NEW_VENV='' NEW_SOURCE='' POLICY_MADE='' LOCKED='' FIRST_INSTALL='' MADE=()
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    WORK=$(mktemp -d)
}

# shellcheck disable=SC2317  # called by the trap
clean_up() {
    local code=$? i
    trap '' INT TERM HUP
    [[ -z $POLICY_MADE ]] || rm -f "$POLICY"
    [[ -z $NEW_VENV ]] || rm -rf -- "$NEW_VENV"
    [[ -z $NEW_SOURCE ]] || rm -rf -- "$NEW_SOURCE"
    [[ -z $WORK ]] || rm -rf -- "$WORK"
    if ((code != 0)); then
        # Nothing is made outside the prefix before the venv is in place, so until then the list has no use.
        [[ -z $FIRST_INSTALL || -L $PREFIX/venv ]] || rm -f -- "$PREFIX/manifest"
        for ((i = ${#MADE[@]} - 1; i >= 0; i--)); do
            rmdir -- "${MADE[i]}" 2>/dev/null || true
        done
    fi
    if ((code == 129 || code == 130 || code == 143)); then
        printf 'install.sh: interrupted; run it again to go on\n' >&2
    fi
    exit "$code"
}

# mkdir -p that knows which folders are new: a failure removes them, an uninstall too.
make_folder() { # FOLDER
    [[ -d $1 ]] && return 0
    make_folder "$(dirname -- "$1")"
    if mkdir -- "$1" 2>"$WORK/output"; then
        MADE+=("$1")
    else
        [[ -d $1 ]] || die 1 "cannot make $1: $(sed 's/.*: //' "$WORK/output")"
    fi
}

# One install or uninstall per folder at a time. The lock ends with this process; what may stay running
# afterwards is started with 9<&-.
take_lock() { # FOLDER
    [[ -z $LOCKED ]] && command -v flock >/dev/null || return 0
    while :; do
        make_folder "$1"
        exec 9<"$1"
        if ! flock -n 9; then
            say lock "another install is at work in $1; waiting for it"
            flock 9
        fi
        # Still that folder, not one that was removed while we waited?
        if [[ $1 -ef /proc/self/fd/9 || ! -e /proc/self ]]; then
            LOCKED=1
            return 0
        fi
        exec 9<&-
    done
}

# ---------------------------------------------------------------- what the machine must have

ensure_packages() {
    local missing=()
    mapfile -t missing < <(missing_packages)
    if ((${#missing[@]})); then
        if ! is_root; then
            ask_administrator "${missing[@]}"
        elif ! command -v apt-get >/dev/null; then
            die 3 "missing: ${missing[*]}; there is no apt-get here, so install them another way and run this again"
        fi
        apt_install "${missing[@]}"
        hash -r
    fi
    check_versions
}

missing_packages() {
    local pair programs=(git:git tmux:tmux redis-server:redis-server flock:util-linux setpriv:util-linux)
    [[ $MODE != test ]] || programs+=(ss:iproute2 pgrep:procps) # tests look at sockets and processes with them
    {
        for pair in "${programs[@]}"; do
            command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
        done
        case ${AI_INFRA_SOURCE:-} in
            ssh://* | *@*:*) command -v ssh >/dev/null || echo openssh-client ;;
        esac
        [[ -n $(find_python) ]] || missing_python
        if command -v apt-get >/dev/null; then
            if [[ ! -s /etc/ssl/certs/ca-certificates.crt ]] && { is_root || [[ ! -s ${SSL_CERT_FILE:-} ]]; }; then
                echo ca-certificates
            fi
            # Wanted by one test, which is skipped without it: no reason to send a user to an administrator.
            [[ $MODE != test ]] || ! is_root || command -v shellcheck >/dev/null || echo shellcheck
        fi
    } | sort -u
}

missing_python() {
    local found
    found=$(python_version python3)
    # No package helps a Python that is too old, or one that was named: check_versions speaks of those.
    if [[ -n ${AI_INFRA_PYTHON:-} ]] || ! at_least 3.11 "$found"; then
        return 0
    fi
    [[ $found == [0-9]* ]] || echo python3
    echo python3-venv
}

ask_administrator() { # PACKAGE...
    {
        printf 'install.sh: missing here: %s\n' "$*"
        printf 'install.sh: only an administrator can add them; ask for this, then run install.sh again:\n'
        printf '    apt-get install --no-install-recommends %s\n' "$*"
        case " $* " in *' redis-server '*)
            printf '  (the redis service that Debian starts with it is not used and may be disabled)\n'
            ;;
        esac
    } >&2
    exit 3
}

apt_install() { # PACKAGE...
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
    say packages "installing $* and what they need, with apt"
    if ! "${apt[@]}" update >"$WORK/output" 2>&1 </dev/null 9<&-; then
        say packages "apt-get update failed; going on with the package lists there are"
    fi
    case " $* " in *' redis-server '*) forbid_redis_start ;; esac
    run_quietly "apt-get install $*" "${apt[@]}" install -y --no-install-recommends "$@" </dev/null 9<&-
    case " $* " in *' redis-server '*) disable_new_redis ;; esac
}

# Debian starts a redis on its TCP port when the package is installed. Nobody asked for that one.
POLICY=/usr/sbin/policy-rc.d
POLICY_MARK='# Written by the install.sh of ai-infra while it runs; may be deleted.'

forbid_redis_start() {
    if [[ -e $POLICY ]] && ! grep -qsF "$POLICY_MARK" "$POLICY"; then
        return 0
    fi
    POLICY_MADE=1
    printf '%s\n' '#!/bin/sh' "$POLICY_MARK" 'case " $* " in *" redis-server "*) exit 101 ;; esac' 'exit 0' >"$POLICY"
    chmod 755 "$POLICY"
}

disable_new_redis() {
    if [[ -n $POLICY_MADE ]]; then
        rm -f "$POLICY"
        POLICY_MADE=''
    fi
    if command -v systemctl >/dev/null; then
        systemctl disable redis-server >/dev/null 2>&1 || true
    else
        update-rc.d redis-server disable >/dev/null 2>&1 || true
    fi
    # Another policy than ours may have let it start.
    if [[ -d /run/systemd/system ]]; then
        systemctl stop redis-server >/dev/null 2>&1 || true
    else
        service redis-server stop >/dev/null 2>&1 || true
    fi
    say packages "the redis service of Debian is left off; ai-infra starts a private one"
}

check_versions() {
    PYTHON=$(find_python)
    if [[ -z $PYTHON ]]; then
        local named=${AI_INFRA_PYTHON:-python3}
        die 3 "$named: $(python_version "$named"); ai-infra needs Python 3.11 or later, with venv (set AI_INFRA_PYTHON)"
    fi
    at_least 3.2 "$(tmux -V 2>&1)" || die 3 "'$(tmux -V 2>&1)' is too old; ai-infra needs tmux 3.2 or later"
    local redis
    redis=$(redis-server --version 2>&1 | grep -o 'v=[0-9.]*' || true)
    at_least 7.0 "$redis" || die 3 "redis-server ${redis#v=} is too old; ai-infra needs redis-server 7.0 or later"
}

at_least() { # MAJOR.MINOR TEXT-WITH-A-VERSION
    [[ $2 =~ ([0-9]+)\.([0-9]+) ]] || return 0 # no number to judge by, e.g. 'tmux master'
    ((BASH_REMATCH[1] > ${1%.*} || (BASH_REMATCH[1] == ${1%.*} && BASH_REMATCH[2] >= ${1#*.})))
}

# Prints the first Python that is new enough and can make environments with pip in them, else nothing.
find_python() {
    local candidate
    local candidates=(/usr/bin/python3 python3 python3.13 python3.12 python3.11)
    [[ -z ${AI_INFRA_PYTHON:-} ]] || candidates=("$AI_INFRA_PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
}

python_version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo 'not usable here'; }

# ---------------------------------------------------------------- the source

find_source() {
    if [[ -n ${AI_INFRA_SOURCE:-} ]]; then
        fetch_source "$AI_INFRA_SOURCE"
    else
        SOURCE=$CHECKOUT
    fi
}

# Copies the source to $PREFIX/src.new; place_source puts it in place once it is installed.
fetch_source() { # ADDRESS
    NEW_SOURCE=$PREFIX/src.new
    rm -rf -- "$NEW_SOURCE"
    mkdir -- "$NEW_SOURCE"
    say source "$1"
    case $1 in
        http://*.tar.gz | https://*.tar.gz | http://*.tgz | https://*.tgz)
            download "$1" "$WORK/source.tar.gz"
            unpack "$WORK/source.tar.gz" "$NEW_SOURCE"
            ;;
        *.tar.gz | *.tgz)
            [[ -f $1 ]] || die 1 "AI_INFRA_SOURCE: $1: no such file"
            unpack "$1" "$NEW_SOURCE"
            ;;
        *)
            if is_source "$1"; then
                copy_source "$1" "$NEW_SOURCE"
            elif [[ $1 == *://* || $1 == *@*:* || -d $1 ]]; then
                run_quietly "git clone $1" env GIT_TERMINAL_PROMPT=0 git clone -q -- "$1" "$NEW_SOURCE"
            else
                die 1 "AI_INFRA_SOURCE: $1: neither a git address nor a folder nor a .tar.gz"
            fi
            ;;
    esac
    is_source "$NEW_SOURCE" || die 1 "AI_INFRA_SOURCE: $1: holds no source of ai-infra"
    SOURCE=$NEW_SOURCE
}

download() { # ADDRESS FILE: by Python, which is here anyway, so that neither curl nor wget need be
    run_quietly "the download of $1" "$PYTHON" -c '
import shutil, sys, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=60) as answer, open(sys.argv[2], "wb") as file:
        shutil.copyfileobj(answer, file)
except OSError as exc:
    sys.exit(str(exc))
' "$1" "$2"
}

unpack() { # TARBALL FOLDER: the tree may be at the top of the archive or in its only folder
    run_quietly "unpacking $1" tar -xzf "$1" --no-same-owner -C "$2"
    local inside=("$2"/*)
    if ! is_source "$2" && ((${#inside[@]} == 1)) && is_source "${inside[0]}"; then
        mv -T -- "${inside[0]}" "$WORK/source"
        rm -rf -- "$2"
        mv -T -- "$WORK/source" "$2"
    fi
}

copy_source() { # FOLDER FOLDER
    local skip=(--exclude=./.venv --exclude=__pycache__ --exclude='./.*_cache' --exclude=./.hypothesis)
    # The .git of a worktree is a file that names a folder elsewhere; a copy of it would be no repository.
    [[ -d $1/.git ]] || skip+=(--exclude=./.git)
    [[ $PREFIX != "$(realpath -- "$1")"/* ]] || skip+=(--exclude="./${PREFIX#"$(realpath -- "$1")"/}")
    tar -C "$1" "${skip[@]}" -cf - . | tar -C "$2" --no-same-owner -xf - || die 1 "copying $1 failed"
}

place_source() {
    [[ -n $NEW_SOURCE ]] || return 0
    rm -rf -- "$PREFIX/src"
    mv -T -- "$NEW_SOURCE" "$PREFIX/src"
    NEW_SOURCE='' SOURCE=$PREFIX/src
}

# One number for all that an install depends on: equal numbers, nothing to do.
fingerprint() { # FOLDER PATH-IN-IT...
    local folder=$1 paths=() path
    shift
    for path in "$@"; do
        [[ ! -e $folder/$path ]] || paths+=("$path")
    done
    {
        "$PYTHON" -c 'import sys; print(sys.executable, sys.version)'
        cd -- "$folder"
        find "${paths[@]}" -name __pycache__ -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum | cut -d' ' -f1 || die 1 "cannot read all of $folder"
}

# ---------------------------------------------------------------- installing

install_all() {
    local print parts=(install.sh pyproject.toml requirements.lock LICENSE README.md)
    parts+=(ai_infra pai config infrastructure)
    check_request
    printf 'ai-infra, into %s\n' "$PREFIX"
    take_lock "$PREFIX"
    ensure_packages
    take_lock "$PREFIX" # again, for when flock came with the packages
    open_manifest
    find_source
    print=$(fingerprint "$SOURCE" "${parts[@]}")
    if [[ -f $PREFIX/stamp && $(<"$PREFIX/stamp") == "$print" ]] && "$PROGRAM" --help >/dev/null 2>&1; then
        BUILT=''
        place_source
    else
        BUILT=1
        build
        printf '%s\n' "$print" >"$PREFIX/stamp"
    fi
    link_program
    write_completions
    [[ -z $SERVICE ]] || install_service
    if [[ -n $BUILT ]]; then
        printf 'installed %s in %s s\n' "$(version)" "$SECONDS"
        [[ -n $UP ]] || printf 'start it with: ai-infra up\n'
    else
        printf 'unchanged: %s is already installed from this source\n' "$(version)"
    fi
}

version() { "$PREFIX/venv/bin/python" -c 'import ai_infra; print("ai-infra", ai_infra.__version__)'; }

# Refuses, before anything is made, what cannot succeed or would write over what is not ours.
check_request() {
    if [[ -z $CHECKOUT && -z ${AI_INFRA_SOURCE:-} ]]; then
        die 2 "no source beside this script; set AI_INFRA_SOURCE to a git address, a folder or a .tar.gz of ai-infra"
    fi
    if [[ -n $REPO ]]; then
        [[ -d $REPO ]] || die 2 "--up $REPO: no such folder"
        REPO=$(cd -- "$REPO" && pwd -P)
    fi
    [[ -z $SERVICE ]] || check_systemd
    if [[ -d $PREFIX && ! -f $PREFIX/manifest && -n $(ls -A -- "$PREFIX") ]]; then
        die 1 "$PREFIX is not empty and not an install of ai-infra; set AI_INFRA_PREFIX to another folder"
    fi
    if [[ -e $LINK && $(readlink -- "$LINK") != "$PROGRAM" ]]; then
        die 1 "$LINK exists and is not ours; move it away, or set AI_INFRA_BIN_DIR to another folder"
    fi
}

build() {
    local name
    say python "$PYTHON, $(python_version "$PYTHON")"
    make_folder "$PREFIX/venvs"
    NEW_VENV=$(mktemp -d "$PREFIX/venvs/XXXXXXXX")
    chmod 755 "$NEW_VENV"
    run_quietly "making the Python environment" "$PYTHON" -m venv "$NEW_VENV"
    local lock=$SOURCE/requirements.lock pip=("$NEW_VENV/bin/python" -m pip install -q --no-compile)
    say environment "$(grep -c == "$lock") packages of requirements.lock, each checked against its hash"
    run_quietly "installing requirements.lock" "${pip[@]}" --require-hashes --only-binary :all: -r "$lock"
    say program "built from $SOURCE"
    run_quietly "building the program" "${pip[@]}" --no-index --no-deps --no-build-isolation "$SOURCE"
    # Compiled once here, so that a dozen processes need not when they start together.
    "$NEW_VENV/bin/python" -m compileall -q -j 0 "$NEW_VENV/lib" >/dev/null 2>&1 || true
    run_quietly "the first start of the program" "$NEW_VENV/bin/ai-infra" --help
    place_source
    name=${NEW_VENV##*/}
    ln -sfn "venvs/$name" "$PREFIX/venv.new"
    mv -T -- "$PREFIX/venv.new" "$PREFIX/venv"
    NEW_VENV=''
    remove_old_builds "$name"
}

# A running session still loads from the build it was started with, so that one stays until a later install.
remove_old_builds() { # NAME-TO-KEEP
    local old
    for old in "$PREFIX"/venvs/*; do
        [[ ${old##*/} != "$1" ]] || continue
        if in_use "$old"; then
            say session 'still runs the previous version; to change over: ai-infra down && ai-infra up'
        else
            rm -rf -- "$old"
        fi
    done
}

# (The list of processes is made before grep starts, so grep does not find itself.)
in_use() { grep -qsaF "$1/" /proc/[0-9]*/cmdline; }

link_program() {
    remember "$LINK"
    if [[ ! -L $LINK || $(readlink -- "$LINK") != "$PROGRAM" ]]; then
        make_folder "$BIN_DIR"
        ln -sfn "$PROGRAM" "$LINK" || die 1 "cannot make the link $LINK"
        say link "$LINK"
    fi
    case ":$PATH:" in
        *":$BIN_DIR:"*) ;;
        *) say note "$BIN_DIR is not in your PATH; for this shell: export PATH=\"$BIN_DIR:\$PATH\"" ;;
    esac
}

write_completions() {
    local shell file written=()
    for shell in bash zsh fish; do
        file=$(completion_file "$shell")
        if [[ -n $BUILT || ! -s $file ]] && completion "$shell" >"$WORK/completion" && [[ -s $WORK/completion ]]; then
            remember "$file"
            make_folder "$(dirname -- "$file")"
            install -m 644 "$WORK/completion" "$file"
            written+=("$shell")
        fi
    done
    ((${#written[@]} == 0)) || say completion "${written[*]}; new shells have it"
    if [[ ${#written[@]} -gt 0 && ${SHELL:-} == */zsh ]] && ! is_root; then
        say note "zsh: put fpath+=($COMPLETION_DIR/zsh/site-functions) before compinit in ~/.zshrc"
    fi
}

completion_file() { # SHELL
    case $1:$COMPLETION_DIR in
        bash:*) echo "$COMPLETION_DIR/bash-completion/completions/ai-infra" ;;
        zsh:*) echo "$COMPLETION_DIR/zsh/site-functions/_ai-infra" ;;
        fish:/usr/local/share) echo /etc/fish/completions/ai-infra.fish ;; # it does not look below /usr/local
        fish:*) echo "$COMPLETION_DIR/fish/vendor_completions.d/ai-infra.fish" ;;
    esac
}

completion() { _AI_INFRA_COMPLETE=${1}_source "$PROGRAM" 2>/dev/null || true; }

# The manifest lists what an uninstall removes outside the prefix: files, and folders (ending in /) if empty.
# Something is listed before it is made, so that nothing is made that is not listed.
open_manifest() {
    local folder
    [[ -L $PREFIX/venv ]] || FIRST_INSTALL=1
    { : >>"$PREFIX/manifest"; } 2>/dev/null || die 1 "$PREFIX is not writable; set AI_INFRA_PREFIX to a folder that is"
    for folder in "${MADE[@]}"; do
        [[ $folder == "$PREFIX" ]] || note "$folder/"
    done
}

remember() { # PATH
    local folder
    folder=$(dirname -- "$1")
    while [[ ! -d $folder ]]; do
        note "$folder/"
        folder=$(dirname -- "$folder")
    done
    note "$1"
}

note() { grep -qxF -- "$1" "$PREFIX/manifest" || printf '%s\n' "$1" >>"$PREFIX/manifest"; }

# ---------------------------------------------------------------- the service

systemctl_ours() {
    if is_root; then
        systemctl "$@"
    else
        systemctl --user "$@"
    fi
}

check_systemd() {
    if is_root; then
        [[ -d /run/systemd/system ]] || die 3 "--service: systemd is not running here; nothing was changed"
    else
        systemctl --user show-environment >/dev/null 2>&1 ||
            die 3 "--service: your systemd (systemctl --user) is not running here; nothing was changed"
    fi
}

install_service() {
    local unit text
    unit=$(unit_file)
    text=$(<"$SOURCE/infrastructure/systemd/ai-infra.service")
    text=${text//\/usr\/local\/bin\/ai-infra/"$LINK"}
    is_root || text=${text/WantedBy=multi-user.target/WantedBy=default.target}
    if [[ -n ${AI_INFRA_HOME:-} ]]; then
        text=${text/Environment=LANG/"Environment=\"AI_INFRA_HOME=$STATE\""$'\n'Environment=LANG}
    fi
    remember "$unit"
    make_folder "$(dirname -- "$unit")"
    printf '%s\n' "$text" >"$unit" || die 1 "cannot write $unit"
    run_quietly "systemctl daemon-reload" systemctl_ours daemon-reload
    run_quietly "systemctl enable ai-infra" systemctl_ours enable ai-infra.service
    say service "$unit, enabled: the session starts at boot"
    is_root || say note "so that it starts without your login: loginctl enable-linger $(id -un)"
}

unit_file() {
    if is_root; then
        echo /etc/systemd/system/ai-infra.service
    else
        echo "${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/ai-infra.service"
    fi
}

# ---------------------------------------------------------------- --up

start() {
    local code=0
    umask "$UMASK"
    [[ -n $REPO ]] || choose_repository
    exec 9<&-
    if [[ -n $SERVICE ]]; then
        run_quietly "systemctl start ai-infra" systemctl_ours start ai-infra.service
    fi
    "$PROGRAM" up || exit
    "$PROGRAM" checkup "$REPO" || code=$?
    printf '\nThe session is up. Look inside:  tmux %sattach -t ai-infrastructure   (leave with Ctrl-b d)\n' \
        "${AI_INFRA_TMUX_SOCKET:+-S $AI_INFRA_TMUX_SOCKET }"
    exit "$code"
}

choose_repository() {
    if is_repository "$SOURCE"; then
        REPO=$SOURCE
        return
    fi
    REPO=$STATE/workspace/sample
    is_repository "$REPO" || make_sample "$REPO"
    say repository "$SOURCE is no git repository with a commit; the check-up takes a sample, $REPO"
}

is_repository() { # FOLDER: the top of a git repository that has a commit
    git -C "$1" rev-parse --verify -q HEAD >/dev/null 2>&1 &&
        [[ $1 -ef $(git -C "$1" rev-parse --show-toplevel 2>/dev/null) ]]
}

make_sample() { # FOLDER
    (
        umask 077
        rm -rf -- "$1"
        mkdir -p -- "$1"
        cd -- "$1"
        printf '# Sample\n\nA small repository for the check-up of ai-infra.\n' >README.md
        printf '"""Sums."""\n\n\ndef add(a: int, b: int) -> int:\n    return a + b\n' >sums.py
        printf 'import unittest\n\nfrom sums import add\n\n\nclass TestAdd(unittest.TestCase):\n' >test_sums.py
        printf '    def test_add(self) -> None:\n        self.assertEqual(add(2, 2), 4)\n' >>test_sums.py
        git init -q
        git add .
        git -c user.name=ai-infra -c user.email=ai-infra@localhost -c commit.gpgsign=false \
            commit -q --no-verify -m 'A small sample to check'
    ) || die 1 "making the sample repository $1 failed"
}

# ---------------------------------------------------------------- --test

run_tests() {
    [[ -n $CHECKOUT ]] || die 2 "--test needs a checkout; run the install.sh that is in one"
    cd -- "$CHECKOUT"
    take_lock "$CHECKOUT"
    ensure_packages
    make_test_environment
    umask "$UMASK"
    exec 9<&-
    rm -rf -- "$WORK"
    trap - EXIT
    exec .venv/bin/python -m pytest "${TEST_ARGS[@]}"
}

# .venv is filled in place and may hold more than we put there; the stamp is written last.
make_test_environment() {
    local print pip=(.venv/bin/python -m pip install -q)
    print=$(printf '%s\n' "$CHECKOUT"; fingerprint . requirements.lock tests/requirements.lock pyproject.toml)
    if [[ -f .venv/.stamp && $(<.venv/.stamp) == "$print" ]] && .venv/bin/python -m pytest --version >/dev/null 2>&1; then
        return 0
    fi
    say environment "$CHECKOUT/.venv, $PYTHON $(python_version "$PYTHON")"
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        run_quietly "making .venv" "$PYTHON" -m venv --clear .venv
    fi
    rm -f .venv/.stamp
    say environment "packages of requirements.lock and tests/requirements.lock, each checked against its hash"
    run_quietly "installing the locks" "${pip[@]}" --require-hashes --only-binary :all: \
        -r requirements.lock -r tests/requirements.lock
    run_quietly "installing the program" "${pip[@]}" --no-index --no-deps --no-build-isolation -e .
    printf '%s\n' "$print" >.venv/.stamp
}

# ---------------------------------------------------------------- --uninstall

uninstall() {
    if [[ -d $PREFIX && ! -f $PREFIX/manifest ]]; then
        die 1 "$PREFIX is not an install of ai-infra; nothing was removed"
    fi
    [[ ! -d $PREFIX ]] || take_lock "$PREFIX"
    if [[ -f $PREFIX/manifest ]]; then
        end_session
        remove_service
        remove_install
        printf 'ai-infra is removed from %s; Debian packages stay\n' "$PREFIX"
    else
        printf 'ai-infra is not installed in %s\n' "$PREFIX"
    fi
    if [[ -n $PURGE ]]; then
        purge_state
    elif [[ -d $STATE ]]; then
        printf 'state is kept in %s; --uninstall --purge removes it\n' "$STATE"
    fi
}

end_session() {
    [[ -x $PROGRAM ]] || return 0
    if [[ -d $STATE ]] && ! "$PROGRAM" down 9<&-; then
        # A program that cannot even print its help cannot hold a session we could end.
        ! "$PROGRAM" --help >/dev/null 2>&1 || die 1 "'ai-infra down' failed; nothing was removed"
    fi
    ! in_use "$PREFIX/venvs" || die 1 "a process still runs from $PREFIX/venvs; end it (ai-infra down), then try again"
}

remove_service() {
    local unit
    unit=$(unit_file)
    if [[ -f $unit ]] && grep -qxF -- "$unit" "$PREFIX/manifest"; then
        systemctl_ours disable --now ai-infra.service >/dev/null 2>&1 || true
        rm -f -- "$unit"
        systemctl_ours daemon-reload >/dev/null 2>&1 || true
    fi
}

# Files first, the list itself when they are gone, folders last and only if empty: twice is safe at any point.
remove_install() {
    local listed path
    mapfile -t listed < <(sort -r -- "$PREFIX/manifest")
    for path in "${listed[@]}"; do
        case $path in
            */) ;;
            */bin/ai-infra | "$LINK") [[ $(readlink -- "$path") != "$PROGRAM" ]] || rm -f -- "$path" ;;
            *) rm -f -- "$path" ;;
        esac
    done
    rm -rf -- "$PREFIX"/{venv,venv.new,venvs,src,src.new,stamp}
    rm -f -- "$PREFIX/manifest"
    rmdir -- "$PREFIX" 2>/dev/null || say kept "$PREFIX, which holds files that are not ours"
    for path in "${listed[@]}"; do
        [[ $path != */ ]] || rmdir -- "$path" 2>/dev/null || true
    done
}

purge_state() {
    if [[ ! -d $STATE ]]; then
        printf 'there is no state in %s\n' "$STATE"
    elif [[ -n $(ls -A -- "$STATE") && ! -d $STATE/run && ! -d $STATE/workspace ]]; then
        die 1 "$STATE does not look like state of ai-infra (no run/, no workspace/); not removed"
    else
        rm -rf -- "$STATE"
        printf 'state in %s is removed\n' "$STATE"
    fi
}

# ---------------------------------------------------------------- main

main() {
    read_arguments "$@"
    CHECKOUT=$(find_checkout)
    [[ -n $CHECKOUT || -t 0 ]] || exec </dev/null # the script itself came in by there
    read_environment
    begin
    case $MODE in
        install)
            install_all
            [[ -z $UP ]] || start
            ;;
        uninstall) uninstall ;;
        test) run_tests ;;
    esac
}

{ main "$@"; exit; }
