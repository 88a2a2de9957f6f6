"""What is in the packages, before anything is installed. tests/system/run has built them."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

DEBS = Path(os.environ.get("FEDGE_SYSTEM_DEBS", "/nonexistent"))
ROOT = Path(__file__).parents[3]
MB = 1_000_000
HIGHEST_EXPOSURE = 1.4
NAMES = ("fedge-agent", "fedge-agent-eth", "fedge-coordinator")


def run(*words, **options):
    return subprocess.run(words, capture_output=True, text=True, check=True, **options).stdout


def deb(name):
    version = run("dpkg-parsechangelog", "-S", "Version", "-l", str(ROOT / "debian/changelog")).strip()
    (found,) = DEBS.glob(f"{name}_{version}_*.deb")
    return found


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def tree(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp(name)
    run("dpkg-deb", "-x", str(deb(name)), str(folder))
    return folder


def test_the_agents_package_is_small_enough_for_a_device():
    path = deb("fedge-agent")
    installed_kib = int(run("dpkg-deb", "-f", str(path), "Installed-Size"))
    assert path.stat().st_size <= 15 * MB
    assert installed_kib * 1024 <= 55 * MB
    assert path.stat().st_size >= 5 * MB, "an empty tree also builds without an error"


def test_lintian_has_nothing_to_say(name):
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", str(deb(name))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_no_file_of_ours_shows_where_it_was_built(tree):
    ours = [path for path in tree.rglob("*") if path.is_file() and "fedge_" in str(path)]
    assert [path for path in ours if b"/tmp/" in path.read_bytes() and path.suffix == ".pyc"] == []
    assert [path for path in tree.rglob("*.bpf.o") if b"/tmp/" in path.read_bytes()] == []


def test_byte_code_is_there_for_every_module_and_is_never_checked_against_its_source(tree):
    sources = [path for path in tree.rglob("*.py") if "site-packages" in str(path)]
    assert sources
    for path in sources:
        (compiled,) = (path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc")
        assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 0b01, compiled


def test_the_list_of_what_is_vendored_names_every_distribution_in_the_tree(name, tree):
    listed = json.loads((tree / f"usr/share/doc/{name}/vendored.cdx.json").read_text())
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.5")
    names = {(part["name"], part["version"]) for part in listed["components"]}
    present = set()
    for info in (*tree.rglob("*.dist-info"), *tree.rglob("*.egg-info")):
        distribution, version = info.stem.split("-")[:2]
        present.add((re.sub(r"[-_.]+", "-", distribution).lower(), version))
    assert {part for part in present if part[0] != "fedge"} == names
    assert all(part["properties"] for part in listed["components"]), "each was locked by hash"
    assert all(part["licenses"] for part in listed["components"])


def test_there_is_one_cryptography_and_it_knows_hpke(tree, name):
    if name == "fedge-agent-eth":
        return
    (info,) = tree.rglob("cryptography-*.dist-info")
    assert int(info.name.split("-")[1].split(".")[0]) >= 50


def test_every_command_has_a_manual_page(tree):
    for command in (tree / "usr/bin").glob("*"):
        assert list((tree / "usr/share/man").rglob(f"{command.name}.[18].gz")), command


def test_every_unit_is_accepted_by_systemd_without_a_word(tree, name, tmp_path):
    units = [path for path in (tree / "lib/systemd/system").glob("*") if path.is_file()]
    if name == "fedge-agent-eth":
        assert units == []
        return
    commands = {line.split()[0].lstrip("+-") for unit in units for line in _values(unit, "Exec")}
    missing = "|".join(re.escape(command) for command in commands)
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    said = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if not re.search(rf"Command ({missing}|'man .*') (is not executable|failed)", line)
    ]
    assert said == []


@pytest.mark.parametrize(
    "unit", ["fedge-agent", "fedge-enroll", "fedge-inference", "fedge-coordinator", "fedge-ca", "fedge-broker"]
)
def test_the_exposure_of_a_unit_stays_below_its_bar(unit):
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(ROOT / f"systemd/{unit}.service"))
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert level is not None
    assert float(level[1]) <= HIGHEST_EXPOSURE


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """A second build of the same source: another folder, umask and time zone; uncompressed, in half of the time."""
    if os.environ.get("FEDGE_SYSTEM_QUICK"):
        pytest.skip("FEDGE_SYSTEM_QUICK is set: a second build takes minutes; unset it")
    folder = tmp_path_factory.mktemp("again")
    key = Path(os.environ["FEDGE_SYSTEM_REPO"]) / "fedge-archive-keyring.pgp"
    place = folder / "quite" / "another" / "folder"
    command = [ROOT / "scripts/build-deb", "--uncompressed", "--out", folder, "--in", place, "--key", key]
    if os.environ.get("FEDGE_SYSTEM_WORKTREE"):
        command.append("--worktree")
    run(*command, env={**os.environ, "TZ": "Pacific/Auckland", "LANG": "C"}, umask=0o077)
    return folder


@pytest.mark.parametrize("package", [*NAMES, "fedge-archive-keyring"])
def test_the_same_source_gives_the_same_bytes_in_another_folder(again, package):
    first, second = deb(package), again / deb(package).name
    for part in ("--ctrl-tarfile", "--fsys-tarfile"):
        assert digest_of(part, first) == digest_of(part, second), (package, part)


@pytest.mark.parametrize("package", ["fedge-agent-eth", "fedge-archive-keyring"])
def test_the_same_bytes_are_compressed_to_the_same_package(package, tmp_path):
    unpacked, again = tmp_path / "tree", tmp_path / deb(package).name
    run("dpkg-deb", "--raw-extract", deb(package), unpacked)
    epoch = run("dpkg-parsechangelog", "-S", "Timestamp", "-l", ROOT / "debian/changelog").strip()
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z6", "--build", unpacked, again]
    run(*command, env={**os.environ, "SOURCE_DATE_EPOCH": epoch})
    assert again.read_bytes() == deb(package).read_bytes()


def digest_of(part, package):
    with subprocess.Popen(["dpkg-deb", part, package], stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        digest = hashlib.sha256()
        while part_of_it := tar.stdout.read(1 << 20):
            digest.update(part_of_it)
    assert tar.returncode == 0
    return digest.hexdigest()


def _values(unit, prefix):
    for line in unit.read_text().splitlines():
        if line.startswith(prefix) and "=" in line:
            yield line.split("=", 1)[1]


def test_the_locks_of_the_packages_are_parts_of_the_lock_of_all():
    def pins(name):
        text = (ROOT / f"requirements/{name}.txt").read_text()
        return set(re.findall(r"^([a-z0-9-]+==[^\s;\\]+)", text, re.MULTILINE))

    assert pins("device") <= pins("dev")
    assert pins("coordinator") <= pins("dev")
