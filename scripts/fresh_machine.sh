#!/usr/bin/env bash
# Judges the install on a machine with nothing on it: a bare Debian, this checkout, one command.
#
# The command runs in a chroot, in a mount and a process namespace of its own: when it ends, however it ends,
# the kernel unmounts everything and kills every process it left. Debian comes from the mirrors, and through
# the proxy, that apt is configured with here.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: scripts/fresh_machine.sh DIR [COMMAND [ARGUMENTS]]

Makes a bare Debian root (debootstrap --variant=minbase) below DIR, copies this
checkout into it as /root/ai-infra and runs COMMAND there as root; default:
./install.sh --up. Its exit code is passed on. The bare system is kept in DIR for
the next run, which starts from it again. Run as root; needs debootstrap.

environment: FRESH_SUITE  the Debian release, default bookworm
example:     scripts/fresh_machine.sh /var/tmp/fresh ./install.sh --test
HELP
}

die() {
    printf 'fresh_machine.sh: %s\n' "$1" >&2
    exit 1
}

main() {
    if (($# == 0)) || [[ $1 == -* && $1 != --inside ]]; then
        usage
        [[ ${1:-} == -h || ${1:-} == --help ]] || exit 2
        exit 0
    fi
    if [[ $1 == --inside ]]; then
        shift
        run_inside "$@"
    fi
    ((EUID == 0)) || die 'only root can make a chroot'
    command -v debootstrap >/dev/null || die 'debootstrap is missing (apt-get install debootstrap)'
    prepare_folder "$1"
    exec unshare --mount --propagation private --pid --fork --kill-child -- \
        "${BASH_SOURCE[0]}" --inside "$(realpath -- "$1")" "${@:2}"
}

# The mark is what allows us to delete in there later.
prepare_folder() { # DIR
    mkdir -p -- "$1"
    [[ -e $1/.fresh-machine || -z $(ls -A -- "$1") ]] || die "$1 is not empty and was not made by this script"
    touch -- "$1/.fresh-machine"
}

run_inside() { # DIR [COMMAND...]
    local suite=${FRESH_SUITE:-bookworm} dir=$1 code=0 started
    shift
    (($#)) || set -- ./install.sh --up
    local base=$dir/base-$suite root=$dir/root
    [[ -e $base/.complete ]] || make_base "$suite" "$base"
    rm -rf --one-file-system -- "$root"
    cp -a -- "$base" "$root"
    mount_kernel_folders "$root"
    copy_checkout "$root/root/ai-infra"
    carry_network "$root"
    printf -- '--- on a bare Debian %s: %s\n' "$suite" "$*"
    started=$SECONDS
    # shellcheck disable=SC2016  # the inner shell expands it
    env -i "${CARRIED[@]}" HOME=/root TERM="${TERM:-dumb}" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        chroot "$root" /bin/bash -c 'cd /root/ai-infra && exec "$@"' bash "$@" || code=$?
    printf -- '--- exit code %s after %s s\n' "$code" "$((SECONDS - started))"
    exit "$code"
}

make_base() { # SUITE FOLDER
    local mirror security
    mirror=$(mirror_of Debian)
    security=$(mirror_of Debian-Security)
    [[ -n $mirror ]] || die 'apt names no Debian mirror here (run apt-get update first)'
    rm -rf --one-file-system -- "$2"
    debootstrap --variant=minbase "$1" "$2" "$mirror" >"$2.log" 2>&1 || die "debootstrap failed; see $2.log"
    {
        printf 'deb %s %s main\n' "$mirror" "$1"
        printf 'deb %s %s-updates main\n' "$mirror" "$1"
        [[ -z $security ]] || printf 'deb %s %s-security main\n' "$security" "$1"
    } >"$2/etc/apt/sources.list"
    apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)' >"$2/etc/apt/apt.conf.d/90fresh-machine" || true
    touch "$2/.complete"
}

# The mirror with this label in apt's configuration.
mirror_of() { # LABEL
    # shellcheck disable=SC2016  # apt expands it
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        awk -v label="$1" '$1 == "Debian" && $2 == label && !seen++ { print $3 }'
}

mount_kernel_folders() { # ROOT
    mount -t proc proc "$1/proc"
    mount -t sysfs -o ro sysfs "$1/sys"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$1/dev/pts"
    mkdir -p "$1/dev/shm"
    mount -t tmpfs tmpfs "$1/dev/shm"
    ln -sfn pts/ptmx "$1/dev/ptmx"
}

copy_checkout() { # FOLDER
    local checkout
    checkout=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
    mkdir -p -- "$1"
    tar -C "$checkout" --exclude=./.venv --exclude=./build --exclude='./.*_cache' --exclude=./.hypothesis \
        --exclude=__pycache__ -cf - . | tar -C "$1" --no-same-owner -xf -
}

# What this machine needs to reach the network, as a user of a fresh machine behind the same wall would set it.
carry_network() { # ROOT; sets CARRIED
    local name
    CARRIED=()
    cp -L /etc/resolv.conf /etc/hosts "$1/etc/"
    for name in {http,https,ftp,all,no}_proxy {HTTP,HTTPS,FTP,ALL,NO}_PROXY PIP_INDEX_URL PIP_DEFAULT_TIMEOUT; do
        [[ -z ${!name:-} ]] || CARRIED+=("$name=${!name}")
    done
    for name in SSL_CERT_FILE PIP_CERT REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO; do
        [[ -f ${!name:-} ]] || continue
        cp -L -- "${!name}" "$1/etc/fresh-machine-ca.crt"
        CARRIED+=("$name=/etc/fresh-machine-ca.crt")
    done
}

main "$@"
