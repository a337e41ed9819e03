"""What this code replaces in other packages or reads from their private parts, and whether it fits.

A patch names the version that it was read against and what it needs there. The check reads the
installed source and imports nothing, so that it is quick and can run before anything starts.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Name:
    """A name that a module has to define or import.

    Attributes:
        module: The module's full name.
        path: The name, or `Class.name` for a method or an attribute of a class.
        parameters: Parameters that the function has to take under these names.
    """

    module: str
    path: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of source that a module has to contain."""

    module: str
    text: str


@dataclass(frozen=True, slots=True)
class Patch:
    """One thing that is replaced in another package, or read from its private parts.

    Attributes:
        name: What the patch does, as a phrase.
        versions: Installed distributions and the versions that the patch was read against. The
            first of them that is installed counts.
        needs: What has to be in the package's source.
    """

    name: str
    versions: tuple[tuple[str, str], ...]
    needs: tuple[Name | Text, ...]


def installed(package: str) -> list[Path]:
    """Folders of an installed package, found without running its code."""
    found = find_spec(package)
    return [Path(folder) for folder in (found.submodule_search_locations if found else None) or ()]


def misfits(
    patches: Iterable[Patch], folders: Callable[[str], list[Path]] = installed
) -> list[str]:
    """One sentence for each patch that the packages no longer fit.

    Args:
        patches: What to check.
        folders: Where a package's source is, by its name.
    """
    modules: dict[str, _Module | None] = {}
    told = []
    for patch in patches:
        for need in patch.needs:
            if need.module not in modules:
                modules[need.module] = _module(need.module, folders)
            if lack := _lack(modules[need.module], need):
                told.append(misfit(patch, lack))
                break
    return told


def misfit(patch: Patch, lack: str) -> str:
    """The sentence that tells what a patch lacks.

    Args:
        patch: The patch that does not fit.
        lack: What is missing, as a clause.
    """
    package, read, installed = _versions(patch)
    return (
        f"the patch {patch.name!r} does not fit {package} {installed}: {lack};"
        f" it was written for {package} {read}"
    )


def _versions(patch: Patch) -> tuple[str, str, str]:
    """The distribution, the version that the patch was read against, and the installed one."""
    for package, read in patch.versions:
        try:
            return package, read, version(package)
        except PackageNotFoundError:
            continue
    package, read = patch.versions[0]
    return package, read, "(not installed)"


def _lack(module: _Module | None, need: Name | Text) -> str | None:
    if module is None:
        return f"there is no module {need.module}"
    if isinstance(need, Text):
        return None if need.text in module.source else f"{need.module} does not say {need.text!r}"
    found = module.names.get(need.path)
    if found is None:
        return f"{need.module} has no {need.path}"
    if missing := [name for name in need.parameters if name not in found]:
        return f"{need.path} of {need.module} takes no parameter {missing[0]!r}"
    return None


@dataclass(frozen=True)
class _Module:
    source: str

    @cached_property
    def names(self) -> dict[str, frozenset[str]]:
        """Every name at the top and in a class, with the parameters of those that are functions."""
        return dict(_names(ast.parse(self.source).body, ""))


def _module(name: str, folders: Callable[[str], list[Path]]) -> _Module | None:
    top, *rest = name.split(".")
    for folder in folders(top):
        path = folder.joinpath(*rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return _Module(file.read_text("utf-8"))
    return None


def _names(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, frozenset[str]]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield prefix + node.name, frozenset()
            yield from _names(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            yield prefix + node.name, frozenset(argument.arg for argument in every)
            yield from ((prefix + name, frozenset()) for name in _set_on_self(node))
        elif isinstance(node, ast.If | ast.Try | ast.With):
            nested = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            yield from _names(nested, prefix)
        else:
            yield from ((prefix + name, frozenset()) for name in _bound(node))


def _bound(node: ast.stmt) -> Iterator[str]:
    """Names that an import or an assignment binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def _set_on_self(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Attributes that a method sets on its object."""
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr
