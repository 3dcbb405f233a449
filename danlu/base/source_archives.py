"""Download source distributions from Python's index without ever running their setup code.

pip prepares the metadata of whatever it downloads, which for a source distribution means to run it. So pip is given a stand-in
for setuptools that answers from the archive's own PKG-INFO. A package that asks for another build tool is refused by pip, since
that tool is not there. A build tool inside the archive itself would be run: such an archive must not be put in the catalog, and
since pip compares the SHA-256 with the catalog's before any of this, none but the archive that was looked at is touched.
"""

from __future__ import annotations

from pathlib import Path

from danlu.base.catalog import Archive

STAND_IN = """\
import re
from pathlib import Path


class Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        lines = Path("PKG-INFO").read_text("utf-8").partition("\\n\\n")[0].splitlines()
        kept = [line for line in lines if re.match("(Metadata-Version|Name|Version): ", line)]
        name, version = (next(line.split()[1] for line in kept if line.startswith(field)) for field in ("Name:", "Version:"))
        folder = Path(metadata_directory, f"{name.replace('-', '_')}-{version}.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text("\\n".join(kept) + "\\n", "utf-8")
        return folder.name


__legacy__ = Backend()
get_requires_for_build_wheel = __legacy__.get_requires_for_build_wheel
prepare_metadata_for_build_wheel = __legacy__.prepare_metadata_for_build_wheel
"""


def stand_in(folder: Path) -> dict[str, str]:
    """Write the stand-in for setuptools into `folder`, and give the environment in which pip meets it."""
    package = folder / "stand-in" / "setuptools"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "build_meta.py").write_text(STAND_IN, "utf-8")
    return {"PYTHONPATH": str(package.parent)}


def arguments(archive: Archive, folder: Path) -> list[str]:
    """What pip is told so that it takes the source distribution with the catalog's checksum and no other."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n")
    return ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517", "--require-hashes", "--requirement", str(wanted)]
