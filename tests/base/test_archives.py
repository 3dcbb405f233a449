from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from danlu.base.archives import unpack
from danlu.base.errors import DataError

MANY = 10**9


def make_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w:gz", links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            packed.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def make_deb(path: Path, members: dict[str, bytes]) -> Path:
    data = make_tar(path.with_suffix(".tar.xz"), members, "w:xz").read_bytes()
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data}
    packed = b"!<arch>\n"
    for name, content in parts.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        assert len(header) == 60
        packed += header + content + b"\n" * (len(content) % 2)
    path.write_bytes(packed)
    return path


@pytest.mark.parametrize("make", [make_zip, make_tar, make_deb])
def test_wanted_members_come_out_with_their_digests(make: object, tmp_path: Path) -> None:
    members = {"a/one.txt": b"one", "a/b/two.txt": "二".encode(), "a/three.py": b"print()"}
    archive = make(tmp_path / "archive.deb", members)  # type: ignore[operator]
    digests = unpack(archive, ("a/*.txt",), tmp_path / "out", MANY)
    assert digests == {name: hashlib.sha256(members[name]).hexdigest() for name in ("a/one.txt", "a/b/two.txt")}
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")} == set(digests)
    assert (tmp_path / "out/a/b/two.txt").read_text() == "二"


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt", "a\\..\\out.txt", "C:/out.txt", "./../out.txt"])
@pytest.mark.parametrize("make", [make_zip, make_tar, make_deb])
def test_a_path_that_leads_out_refuses_the_whole_archive(make: object, name: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    archive = make(tmp_path / "inner" / "archive.bin", {name: b"gotcha"})  # type: ignore[operator]
    with pytest.raises(DataError, match="leads out of its folder"):
        unpack(archive, ("*",), tmp_path / "inner" / "out", MANY)
    assert not list(tmp_path.rglob("out.txt"))


def test_links_are_never_made(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tgz", {"real": b"1"}, links={"link": "/etc", "link/passwd": "x"})
    assert set(unpack(archive, ("*",), tmp_path / "out", MANY)) == {"real"}
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
        packed.writestr("real", "1")
    assert set(unpack(tmp_path / "a.zip", ("*",), tmp_path / "out2", MANY)) == {"real"}
    assert not (tmp_path / "out2" / "link").exists()


def test_a_member_cannot_be_written_through_another(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tgz", {"x": b"inside"}, links={"x": str(tmp_path / "outside")})
    unpack(archive, ("*",), tmp_path / "out", MANY)
    assert (tmp_path / "out" / "x").read_bytes() == b"inside" and not (tmp_path / "outside").exists()


@pytest.mark.parametrize("make", [make_zip, make_tar, make_deb])
def test_a_bomb_is_refused(make: object, tmp_path: Path) -> None:
    archive = make(tmp_path / "bomb.bin", {"zeros": bytes(60_000_000)})  # type: ignore[operator]
    assert archive.stat().st_size < 1_000_000
    with pytest.raises(DataError, match="decompression bomb"):
        unpack(archive, ("*",), tmp_path / "out", MANY)
    assert sum(path.stat().st_size for path in tmp_path.glob("out/**/*")) == 0


def test_more_than_the_catalog_says_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a": bytes(6000), "b": bytes(6000)}, zipfile.ZIP_STORED)
    with pytest.raises(DataError, match="more than the catalog says"):
        unpack(archive, ("*",), tmp_path / "out", 10_000)


@pytest.mark.parametrize("make", [make_zip, make_tar, make_deb])
def test_a_cut_or_altered_archive_is_a_data_error(make: object, tmp_path: Path) -> None:
    text = "".join(hashlib.sha256(bytes([i % 251, i // 251])).hexdigest() for i in range(3000)).encode()
    whole = make(tmp_path / "archive.bin", {"a/text": text}).read_bytes()  # type: ignore[operator]
    for number, broken in enumerate([whole[: len(whole) // 2], whole[:70], b"", b"PK\3\4 not a zip", b"!<arch>\nnot a deb" + bytes(60)]):
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(DataError) as failure:
            unpack(tmp_path / "broken", ("*",), tmp_path / f"out{number}", MANY)
        assert "\n" not in str(failure.value)
    for place in range(100, len(whole), max(len(whole) // 60, 1)):
        flipped = bytearray(whole)
        flipped[place] ^= 0x40
        (tmp_path / "broken").write_bytes(flipped)
        try:
            digests = unpack(tmp_path / "broken", ("*",), tmp_path / f"flip{place}", MANY)
        except DataError:
            continue
        # what an archive's own checksums let pass is what the catalog's SHA-256 of the whole archive is for
        assert all(len(digest) == 64 for digest in digests.values())


def test_nothing_wanted_in_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the files wanted from it: \*\.gguf"):
        unpack(make_zip(tmp_path / "a.zip", {"a": b"1"}), ("*.gguf",), tmp_path / "out", MANY)
