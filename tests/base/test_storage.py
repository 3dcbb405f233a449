from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from danlu.base.storage import PARTIAL, Folder, remove_partial, whole_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_readable_by_others(tmp_path: Path) -> None:
    write_whole(tmp_path / "new/deep/file", b"content")
    assert (tmp_path / "new/deep/file").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "new/deep/file").stat().st_mode) == 0o644
    assert names(tmp_path / "new/deep") == ["file"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError()])
def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"half of the new")
        assert (tmp_path / "file").read_bytes() == b"old"
        raise error

    write_whole(tmp_path / "file", b"old")
    with pytest.raises(type(error)):
        write_whole(tmp_path / "file", write)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_file_is_replaced_by_the_new_one(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"a longer old content")
    write_whole(tmp_path / "file", lambda file: file.write(b"new") and None)
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_folder_appears_once_it_is_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "runs/folder") as place:
        (place / "inner").mkdir()
        (place / "inner/file").write_bytes(b"x")
        assert not (tmp_path / "runs/folder").exists()
    assert (tmp_path / "runs/folder/inner/file").read_bytes() == b"x"
    assert names(tmp_path / "runs") == ["folder"]
    assert stat.S_IMODE((tmp_path / "runs/folder").stat().st_mode) == 0o755


def test_a_folder_whose_writer_fails_never_appears(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "folder") as place:
        (place / "file").write_bytes(b"x")
        raise ZeroDivisionError
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
def test_nothing_is_ever_overwritten_by_a_folder(tmp_path: Path, kind: str) -> None:
    there = tmp_path / "there"
    if kind == "file":
        there.write_bytes(b"old")
    else:
        there.mkdir()
    if kind == "folder":
        (there / "old").write_bytes(b"old")
    with pytest.raises(FileExistsError), whole_folder(there):
        pytest.fail("the writer ran")
    assert there.read_bytes() == b"old" if kind == "file" else names(there) == (["old"] if kind == "folder" else [])


def test_a_folder_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OSError), whole_folder(tmp_path / "folder") as place:
        (place / "mine").write_bytes(b"x")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder/theirs").write_bytes(b"y")
    assert names(tmp_path / "folder") == ["theirs"]
    assert names(tmp_path) == ["folder"]


KILLED = """
import os, signal, sys
from pathlib import Path
from danlu.base.storage import whole_folder, write_whole
root = Path(sys.argv[1])
if sys.argv[2] == "folder":
    with whole_folder(root / "target") as place:
        (place / "file").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
def write(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
write_whole(root / "target", write)
"""


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path, what: str) -> None:
    if what == "file":
        write_whole(tmp_path / "target", b"old")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), what], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    left = [name for name in names(tmp_path) if name != "target"]
    assert len(left) == 1 and left[0].startswith(f"{PARTIAL}target-")
    assert Folder(tmp_path).list() == ([] if what == "folder" else ["target"])
    remove_partial(tmp_path)
    assert names(tmp_path) == ([] if what == "folder" else ["target"])
    if what == "file":
        assert (tmp_path / "target").read_bytes() == b"old"


def test_a_plain_folder_keeps_the_protocol(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write_whole("b/c", b"2")
    folder.write_whole("a", lambda file: file.write(b"1") and None)
    (tmp_path / f"{PARTIAL}x").mkdir()
    (tmp_path / f"{PARTIAL}x/y").write_bytes(b"")
    assert folder.list() == ["a", "b/c"]
    with folder.open("b/c") as file:
        assert file.read() == b"2"


def test_removing_leftovers_removes_nothing_else(tmp_path: Path) -> None:
    for name in ("kept", f"{PARTIAL}gone"):
        (tmp_path / name).write_bytes(b"")
    remove_partial(tmp_path)
    remove_partial(tmp_path / "not there")
    assert names(tmp_path) == ["kept"]
