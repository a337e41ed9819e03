import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from serving.access.errors import SecretUnsafe
from serving.access.secret import load_or_create_secret

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "secret"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(mode)


def test_secret_is_made_once_and_then_read(path: Path) -> None:
    first = load_or_create_secret(path)
    assert len(bytes.fromhex(first.get_secret_value())) == 32
    assert load_or_create_secret(path) == first


def test_secrets_of_two_files_differ(tmp_path: Path) -> None:
    assert load_or_create_secret(tmp_path / "a") != load_or_create_secret(tmp_path / "b")


def test_secret_file_and_its_new_directory_are_private_under_any_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_secret(path)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)]
    assert modes == [0o600, 0o700]


def test_secret_leaves_no_other_file(path: Path) -> None:
    load_or_create_secret(path)
    assert list(path.parent.iterdir()) == [path]


def test_threads_that_race_get_the_same_secret(tmp_path: Path) -> None:
    barrier = Barrier(8)

    def load(path: Path) -> str:
        barrier.wait()
        return load_or_create_secret(path).get_secret_value()

    with ThreadPoolExecutor(8) as threads:
        for attempt in range(25):
            paths = [tmp_path / str(attempt) / "secret"] * 8
            assert len(set(threads.map(load, paths))) == 1


def test_processes_that_race_get_the_same_secret(path: Path) -> None:
    code = (
        "from pathlib import Path; from serving.access.secret import load_or_create_secret as load;"
        f"print(load(Path({str(path)!r})).get_secret_value())"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    secrets = {process.communicate(timeout=120)[0].decode().strip() for process in running}
    assert secrets == {load_or_create_secret(path).get_secret_value()}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
def test_secret_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    write(path, "s" * 64, mode)
    with pytest.raises(SecretUnsafe, match=f"{mode:04o}"):
        load_or_create_secret(path)


@pytest.mark.parametrize("text", ["", "\n", "s" * 31, " " * 64, "s" * 5000, "ß" * 64])
def test_secret_that_is_short_long_or_not_ascii_is_refused(path: Path, text: str) -> None:
    write(path, text)
    with pytest.raises(SecretUnsafe):
        load_or_create_secret(path)


def test_refusal_does_not_show_the_secret(path: Path) -> None:
    write(path, "short-but-secret")
    with pytest.raises(SecretUnsafe) as raised:
        load_or_create_secret(path)
    assert "short-but-secret" not in str(raised.value)


def test_secret_of_the_operator_is_read_without_its_line_end(path: Path) -> None:
    write(path, "s" * 32 + "\r\n", 0o400)
    assert load_or_create_secret(path).get_secret_value() == "s" * 32


def test_secret_may_be_a_link_to_a_private_file(path: Path, tmp_path: Path) -> None:
    write(tmp_path / "mounted", "s" * 64)  # As Kubernetes mounts a secret.
    path.parent.mkdir()
    path.symlink_to(tmp_path / "mounted")
    assert load_or_create_secret(path).get_secret_value() == "s" * 64


def test_pipe_in_the_files_place_is_refused_at_once(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(SecretUnsafe, match="plain file"):
        load_or_create_secret(path)


def test_directory_in_the_files_place_is_refused(path: Path) -> None:
    path.mkdir(parents=True, mode=0o700)
    with pytest.raises((SecretUnsafe, OSError)):
        load_or_create_secret(path)


def test_secret_does_not_print(path: Path) -> None:
    secret = load_or_create_secret(path)
    assert secret.get_secret_value() not in f"{secret} {secret!r}"
