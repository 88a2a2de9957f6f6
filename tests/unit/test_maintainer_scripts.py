"""What dpkg runs as root must write nothing where a service's user could have put a link."""

import re
from pathlib import Path

import pytest

DEBIAN = Path(__file__).parents[2] / "debian"
SCRIPTS = sorted(path for kind in ("preinst", "postinst", "prerm", "postrm") for path in DEBIAN.glob(f"*.{kind}"))
THEIRS = r"/(var/lib|run)/fedge(-ca|-coordinator|-broker)?(/|\b(?!-))"
WRITES = re.compile(rf"(>\s*|\b(tee|touch|cp|mv|install|chown|chmod|ln|mkdir)\b[^|;&\n]*\s)\"?{THEIRS}")


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("printf x >/var/lib/fedge/notice", True),
        ("chown -R fedge /run/fedge/x", True),
        ("mkdir -p /var/lib/fedge", True),
        ("cp a /var/lib/fedge-ca/b", True),
        ("printf x >/var/lib/fedge-bpf/notice", False),
        ("rm -rf /var/lib/fedge /run/fedge", False),
        ("[ -e /var/lib/fedge/chain.key ]", False),
    ],
)
def test_the_rule_finds_what_it_should(line, wrong):
    assert bool(WRITES.search(line)) is wrong


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_root_writes_nothing_into_a_directory_of_a_services_user(script):
    lines = [line for line in script.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in lines if WRITES.search(line)] == []
