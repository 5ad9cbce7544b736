from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.ldm_patched.files.whole import replacing, write_new


def writers(folder: Path) -> None:
    """Write 10 files under the same names at once from 8 threads."""
    together = threading.Barrier(8)

    def work(number: int) -> None:
        together.wait()
        for _ in range(10):
            paths = (folder / f"x{place}" for place in range(1000))
            write_new(paths, lambda file: file.write(bytes([number])))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def without_links(*names: object) -> None:
    raise PermissionError("this file system has no links")


@pytest.mark.parametrize("link", [os.link, without_links])
def test_writers_at_once_lose_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Callable[..., None]
) -> None:
    monkeypatch.setattr(os, "link", link)
    writers(tmp_path)
    found = [path.read_bytes() for path in tmp_path.iterdir()]
    assert sorted(found) == sorted(bytes([number]) for number in range(8) for _ in range(10))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "link") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "real").read_bytes() == b"old"
    with replacing(tmp_path / "link", durable=True) as file:
        file.write(b"new")
    assert (tmp_path / "real").read_bytes() == b"new" and (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_folders_are_refused_and_devices_written_to(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        pass
    with replacing(Path(os.devnull)) as file:
        file.write(b"x")
    assert not Path(os.devnull).is_file()


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FileNotFoundError):
        Folders(input=tmp_path).input_file("a")
    with replacing(tmp_path / "a") as file:
        file.write(b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
