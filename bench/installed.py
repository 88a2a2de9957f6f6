"""The agent as its package runs it: Debian's interpreter, the package's own libraries, byte code, and flags."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fedge_coordinator.demo.programs import program

ROOT: Final = Path(__file__).resolve().parents[1]
_PREFIX: Final = Path("usr/lib/fedge")
_MODULES: Final = ("agent/fedge_agent", "protocol/fedge_protocol", "protocol/fedge_transport")


@dataclass(frozen=True)
class Installed:
    """How to run `fedge-agent`, and what the package weighs, in bytes; None without a package."""

    command: tuple[str, ...]
    described: str
    package: int | None = None
    unpacked: int | None = None


def newest_package() -> Path | None:
    """The package that scripts/build-deb, or the system tests, built last."""
    found = [*ROOT.glob("dist/fedge-agent_*.deb"), *ROOT.glob(".cache/system/debs/fedge-agent_*.deb")]
    honest = [path for path in found if "+1_" not in path.name]  # the system tests' next version
    return max(honest, key=lambda path: path.stat().st_mtime, default=None)


def installed(deb: Path | None, folder: Path) -> Installed:
    """Unpack a package, with today's modules in it; without one, the command of this environment.

    Our modules are copied from the working tree and compiled as debian/private-tree does, so that what is measured is
    the present source with the interpreter, the libraries and the flags of the package.
    """
    if deb is None or not Path("/usr/bin/python3").exists():
        return Installed((program("fedge-agent"),), f"this environment's, {sys.executable}: no package was built")
    subprocess.run(["dpkg-deb", "-x", str(deb), str(folder)], check=True)
    tree = folder / _PREFIX
    python = tree / "bin" / "python3"
    python.unlink()
    python.symlink_to("/usr/bin/python3")
    site = next((tree / "lib").glob("python3*")) / "site-packages"
    for module in _MODULES:
        place = site / Path(module).name
        shutil.rmtree(place)
        shutil.copytree(ROOT / module, place, ignore=shutil.ignore_patterns("__pycache__"))
    numpy = _numpy_beside(python, site, folder / "numpy")
    compiled = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(tree)]
    subprocess.run(["/usr/bin/python3", *compiled], check=True)
    command = folder / "usr" / "bin" / "fedge-agent"
    flags = command.read_text().partition("\n")[0].rpartition(" ")[2]
    begins = re.search(r"command fedge-agent (\S+)", (ROOT / "debian" / "private-tree").read_text())
    module = begins[1] if begins else "fedge_agent.entry"
    command.write_text(f"#!{python} {flags}\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n")
    shown = subprocess.run(["dpkg-deb", "-f", str(deb), "Installed-Size"], capture_output=True, text=True, check=True)
    return Installed(
        (str(command),),
        f"{deb.name} with today's modules, /usr/bin/python3 {flags}, {numpy}",
        deb.stat().st_size,
        int(shown.stdout) * 1024,
    )


def _numpy_beside(python: Path, site: Path, place: Path) -> str:
    """Debian's numpy, which the package depends on; where it is not installed, this environment's, for the worker."""
    if subprocess.run([str(python), "-I", "-c", "import numpy"], check=False, capture_output=True).returncode == 0:
        return "Debian's numpy"
    place.mkdir()
    ours = Path(find_spec("numpy").origin).parents[1]  # type: ignore[union-attr, arg-type]  # pyproject.toml asks for it
    for name in ("numpy", "numpy.libs"):
        if (ours / name).exists():
            (place / name).symlink_to(ours / name)
    (site / "numpy.pth").write_text(f"{place}\n")
    return "numpy of this environment, Debian's is not installed"
