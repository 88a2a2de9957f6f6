# shellcheck shell=bash
# Sourced: Debian packages, by what they provide, so that a tool which came another way counts as present.

# provided PACKAGE: whether what we want of it is here.
provided() {
    case $1 in
    clang | make | mosquitto | clang-format | shellcheck | npm) have "$1" ;;
    llvm) have llvm-strip ;;
    libbpf-dev) [[ -e /usr/include/bpf/bpf_helpers.h ]] && compgen -G '/usr/lib*/*/libbpf.so.[01]' >/dev/null ;;
    linux-libc-dev) [[ -e /usr/include/linux/bpf.h ]] ;;
    nodejs) have node ;;
    iproute2) have ip ;;
    python3-bpfcc) [[ -e /usr/lib/python3/dist-packages/bcc/__init__.py ]] ;;
    tinyproxy-bin) have tinyproxy ;;
    util-linux) have setpriv && have unshare && have flock ;;
    mount) have mount ;;
    ca-certificates) [[ -e /etc/ssl/certs/ca-certificates.crt ]] ;;
    python3-venv) pick_python >/dev/null ;;
    *) dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' ;;
    esac
}

# Runs a command as root: directly, or by sudo where that needs no password or somebody is there to type it.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        return 1
    fi
}

may_become_root() {
    ((EUID == 0)) || { have sudo && { sudo -n true 2>/dev/null || { [[ -t 2 ]] && sudo -v; }; }; }
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

# Installs without starting any service: Mosquitto's package would put a broker on port 1883. The policy is taken away
# again whatever happens, and the unit is kept from starting at the next boot.
apt_install() (
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'as_root rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    brought_mosquitto=0
    [[ " $* " == *" mosquitto "* ]] && brought_mosquitto=1
    if ! apt-cache show "$@" >/dev/null 2>&1; then
        apt_get update || exit
        updated=1
    fi
    if ! apt_get install --no-install-recommends "$@"; then
        [[ -z ${updated:-} ]] || exit 1
        apt_get update && apt_get install --no-install-recommends "$@" || exit # the lists were older than the mirror
    fi
    if ((brought_mosquitto)) && have systemctl; then
        as_root systemctl disable mosquitto.service || true
    fi
)

# need_packages PACKAGE...: installs those that are missing, or says exactly which and goes on.
need_packages() {
    local package missing=()
    for package; do
        provided "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    local cure="as root: apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    if ! have apt-get; then
        say "missing, and this is no Debian: ${missing[*]} (Debian's names); install what provides them"
    elif ! may_become_root; then
        say "missing, and neither root nor sudo is to be had: ${missing[*]}"
        say "cure: $cure"
    else
        say "installing Debian packages: ${missing[*]}"
        logged apt "$cure" apt_install "${missing[@]}" || say "going on without them"
    fi
}
