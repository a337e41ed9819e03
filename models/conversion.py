"""Converts GGUF to safetensors once, so that quantised weights of a package can be loaded.

A directory is current if its manifest names this source and these tools, and its files have the
recorded sizes. Conversion runs in its own process, so that a gigabyte of imports is freed;
`python -m models.conversion SOURCE TARGET` is that process. Knows nothing of the catalogue.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

MANIFEST = "ringfence-manifest.json"

_FORMAT = 1
_TOOLS = ("gguf", "transformers")
_ROOT = Path(__file__).parents[1]

Progress = Callable[[str], None]


class PreparationFailed(Exception):
    """A model's files cannot be prepared. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """Identity of a source file. `sha256` is compared only if the other fields differ."""

    name: str
    bytes: int
    modified_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Source, tools and files of a converted directory.

    `files` maps each name to its size in bytes and its SHA-256.
    """

    format: int
    source: SourceFile
    tools: dict[str, str]
    files: dict[str, tuple[int, str]]

    @classmethod
    def read(cls, directory: Path) -> Manifest | None:
        """Read the directory's manifest; None if there is no readable one."""
        try:
            raw = json.loads((directory / MANIFEST).read_bytes())
            files = {name: (size, sha256) for name, (size, sha256) in raw.pop("files").items()}
            return cls(source=SourceFile(**raw.pop("source")), files=files, **raw)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, directory: Path) -> None:
        """Write the manifest atomically."""
        partial = directory / f"{MANIFEST}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2), "utf-8")
        partial.rename(directory / MANIFEST)


def convert_in_subprocess(source: Path, target: Path, *, deadline_s: float) -> None:
    """Convert a GGUF file into a directory in Hugging Face's layout.

    Raises:
        PreparationFailed: the converter failed, or exceeded `deadline_s`.
    """
    command = [sys.executable, "-m", "models.conversion", str(source), str(target)]
    try:
        subprocess.run(  # noqa: S603  Our own module; the paths are arguments, not a shell's.
            command, cwd=_ROOT, check=True, timeout=deadline_s, capture_output=True
        )
    except subprocess.TimeoutExpired:
        raise PreparationFailed(
            f"Converting {source.name} took longer than {deadline_s:g} s."
        ) from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {error.returncode}"
        raise PreparationFailed(f"Converting {source.name} failed: {reason}") from None


def converted(
    source: Path,
    target: Path,
    *,
    on_progress: Progress,
    convert: Callable[..., None] = convert_in_subprocess,
    deadline_s: float = 600,
) -> Path:
    """Return the directory with `source` converted; convert it unless it is current.

    Args:
        source: a GGUF file.
        target: the directory, which is replaced as a whole.
        on_progress: receives a phrase at the start and at the end of the conversion.
        convert: called with the source, an empty directory and `deadline_s`.
        deadline_s: seconds to wait for another process that prepares it, and for `convert`.

    Raises:
        PreparationFailed: the conversion failed; the message has the reason.
    """
    if is_current(source, target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock", timeout=deadline_s):
            if not _refreshed(source, target):
                on_progress(f"converting {source.name} to safetensors, once")
                _build(source, target, convert=convert, deadline_s=deadline_s)
                on_progress(f"converted {source.name}")
    except Timeout:
        raise PreparationFailed(
            f"Another process has been preparing {target} for more than {deadline_s:g} s."
        ) from None
    except OSError as error:
        raise PreparationFailed(f"Cannot prepare {target}: {error}") from None
    return target


def is_current(source: Path, target: Path) -> bool:
    """Whether `target` needs no work. Compares sizes and times, not contents."""
    manifest = _whole(target)
    if manifest is None:
        return False
    stat = source.stat()
    return (manifest.source.bytes, manifest.source.modified_ns) == (stat.st_size, stat.st_mtime_ns)


def _whole(target: Path) -> Manifest | None:
    """Return the manifest of a complete directory that these tools wrote; else None."""
    manifest = Manifest.read(target)
    if manifest is None or (manifest.format, manifest.tools) != (_FORMAT, _tools()):
        return None
    try:
        sizes = {name: (target / name).stat().st_size for name in manifest.files}
    except OSError:  # A file is absent, or another process is replacing the directory.
        return None
    return manifest if sizes == {name: file[0] for name, file in manifest.files.items()} else None


def _refreshed(source: Path, target: Path) -> bool:
    """Whether `target` is current now: another process made it, or only times have changed."""
    manifest = _whole(target)
    if manifest is None:
        return False
    identity = _identity(source)
    if identity.sha256 != manifest.source.sha256:
        return False
    Manifest(manifest.format, identity, manifest.tools, manifest.files).write(target)
    return True


def _build(source: Path, target: Path, *, convert: Callable[..., None], deadline_s: float) -> None:
    """Convert next to `target`, then move into place. The caller holds the lock."""
    prefix = f".{target.name}.partial-"
    for leftover in target.parent.glob(f"{prefix}*"):  # Left by a process that was killed.
        shutil.rmtree(leftover)
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        convert(source, partial, deadline_s=deadline_s)
        files = {path.name: (path.stat().st_size, _sha256(path)) for path in partial.iterdir()}
        if not files:
            raise PreparationFailed(f"Converting {source.name} wrote nothing.")
        Manifest(_FORMAT, _identity(source), _tools(), files).write(partial)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _identity(source: Path) -> SourceFile:
    stat = source.stat()
    return SourceFile(source.name, stat.st_size, stat.st_mtime_ns, _sha256(source))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tools() -> dict[str, str]:
    return {tool: version(tool) for tool in _TOOLS}


def _convert(source: Path, target: Path) -> None:
    """Dequantise to bfloat16 with transformers. About 20 s for 135 M parameters."""
    import torch  # noqa: PLC0415  Only this process pays for the import.
    import transformers  # noqa: PLC0415

    transformers.utils.logging.disable_progress_bar()
    place: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent,
        dtype=torch.bfloat16,
        quantization_config=transformers.GgufConfig(dequantize=True),
        **place,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **place)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
