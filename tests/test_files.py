import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plainunet.files import (
    lock_folder,
    remove_unfinished,
    require_file,
    require_own,
    require_writable,
    write_json,
    write_whole,
)


@pytest.mark.parametrize("old", ["old", None])
def test_file_appears_whole(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "new" / "folder" / "scores.json"
    if old:
        path.parent.mkdir(parents=True)
        path.write_text(old)
    with write_whole(path) as part:
        assert part.parent == path.parent
        assert part.suffix == ".json"
        part.write_text("whole")
        assert (path.read_text() if path.exists() else None) == old
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("old", ["old", None])
def test_failure_keeps_the_old_file(
    tmp_path: Path, error: type[BaseException], old: str | None
) -> None:
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)

    def fail() -> None:
        with write_whole(path) as part:
            part.write_text("half")
            raise error("mine")

    with pytest.raises(error, match="mine"):
        fail()
    assert (path.read_text() if path.exists() else None) == old
    assert list(tmp_path.iterdir()) == ([path] if old else [])


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        with write_whole(tmp_path / "a.txt") as part:
            part.write_text("text")
    finally:
        left = os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode
    assert left == mask


def test_two_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with write_whole(path) as first, write_whole(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "é" * 125 + ".png"])
def test_names_of_maximum_length(tmp_path: Path, name: str) -> None:
    with write_whole(tmp_path / name) as part:
        part.write_text("text")
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("file_modes")
def test_folders_without_write_access(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("text")
    (tmp_path / "closed").mkdir(mode=0o500)
    for folder, reason in (("file/runs", "Not a directory"), ("closed", "Permission denied")):
        with pytest.raises(ValueError, match=rf"{folder}.*{reason}"):
            require_writable(tmp_path / folder)


def test_require_file(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name in ("model.safetensors", "scores", "folder.json"):
        with pytest.raises(ValueError, match=f"{name}: "):
            require_file(tmp_path / name, ".json")
    require_file(tmp_path / "new" / "scores.JSON", ".json")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file: .*Not a directory"):
        require_file(tmp_path / "file" / "scores.json", ".json")


def test_only_results_of_the_same_kind_are_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    require_own(path, '"findings"')
    path.write_text('{"findings": []}')
    require_own(path, '"findings"')
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match=r"result\.json"):
        require_own(path, '"findings"')


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"a": [1, None]})
    assert (tmp_path / "new" / "a.json").read_text() == '{\n "a": [\n  1,\n  null\n ]\n}\n'


LOCKING = """
import sys, time
from pathlib import Path
from plainunet.files import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def holding(code: str, folder: Path) -> subprocess.Popen[str]:
    """A process, in its own process group, that holds the lock of a folder."""
    words = [sys.executable, "-c", code, folder]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    return holder


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = holding(LOCKING, folder)
    with pytest.raises(ValueError, match=rf"\b{holder.pid}\b"), lock_folder(folder):
        pass
    holder.kill()
    holder.communicate()
    with lock_folder(folder):
        (folder / "result").write_text("done")
    assert [file.name for file in folder.iterdir()] == ["result"]


def test_a_lock_is_exclusive_and_leaves_no_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with lock_folder(folder):
        with pytest.raises(ValueError, match=r"\brun\b"), lock_folder(folder):
            pass
        assert folder.is_dir()
    assert not (tmp_path / "new").exists()
    with pytest.raises(KeyError), lock_folder(folder):  # also after an error
        raise KeyError
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with lock_folder(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="locks are others there")
def test_a_file_system_without_locks_is_not_a_folder_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with pytest.raises(ValueError, match=r"lock.*No locks available") as raised:
        lock_folder(tmp_path).__enter__()
    assert "in use" not in str(raised.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_hold_the_lock(tmp_path: Path) -> None:
    code = LOCKING.replace("    time", "    import os\n    os.fork() or time.sleep(60)\n    time")
    holder = holding(code, tmp_path)
    time.sleep(0.3)  # until it has forked
    holder.kill()
    holder.wait()
    holder.stdout.close()  # type: ignore[union-attr]
    with lock_folder(tmp_path):
        os.killpg(holder.pid, 0)  # the child is still running
    os.killpg(holder.pid, signal.SIGKILL)


def test_a_killed_writer_keeps_the_old_file_and_its_temporary_one_is_removed(
    tmp_path: Path,
) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from plainunet.files import write_whole
with write_whole(Path(sys.argv[1]) / "state.pt") as part:
    part.write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / ".hidden").write_text("mine")
    (tmp_path / "state.pt").write_text("old")
    ended = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    remove_unfinished(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".hidden", "state.pt"]
    assert (tmp_path / "state.pt").read_text() == "old"


FULL = """
import resource, sys
from pathlib import Path
from plainunet.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    with write_whole(Path(sys.argv[1])) as part:
        if sys.argv[2] == "library":  # which hides the reason
            try:
                part.write_bytes(bytes(20_000))
            except OSError:
                raise RuntimeError("unexpected pos 576 vs 534")
        part.write_bytes(bytes(20_000))
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no RLIMIT_FSIZE")
@pytest.mark.parametrize("who", ["python", "library"])
def test_a_full_disk_is_reported_and_keeps_the_old_file(tmp_path: Path, who: str) -> None:
    file = tmp_path / "model.bin"
    file.write_text("before")
    output = subprocess.check_output([sys.executable, "-c", FULL, file, who], text=True)
    assert output.startswith(f"{file}: ")
    assert "File too large" in output
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]
