"""Patches of Ray and vLLM: they fit what is installed, and one that does not is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from models import ray_compat
from models.patches import Name, Patch, Text, installed, misfits
from models.vllm import compat
from serving.ray_cluster import haproxy

PATCHES = [*ray_compat.PATCHES, *compat.PATCHES, haproxy.PATCH]
NEEDS = [(patch, need) for patch in PATCHES for need in patch.needs]

StandIn = Callable[[str, str], None]


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """Writes a module of a package that stands in for an installed one."""

    def write(module: str, source: str) -> None:
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, "utf-8")

    return write


def told_of(patch: Patch, tmp_path: Path) -> list[str]:
    return misfits([patch], lambda package: [tmp_path / package])


def own_patch(*needs: Name | Text) -> Patch:
    return Patch("no noise", (("ray", "2.60.0"),), needs)


def installed_source(module: str) -> str:
    top, *rest = module.split(".")
    return installed(top)[0].joinpath(*rest).with_suffix(".py").read_text("utf-8")


def without(need: Name | Text, source: str) -> str:
    """The source after another version has given the part that is needed a new name."""
    if isinstance(need, Name):
        return re.sub(rf"\b{need.path.rpartition('.')[2]}\b", "has_moved", source)
    moved = source.replace(need.text, re.sub(r"(\w+)(\W*)$", r"moved_\1\2", need.text))
    assert need.text not in moved
    return moved


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_patch_fits_what_is_installed(patch: Patch) -> None:
    assert misfits([patch]) == []


@pytest.mark.parametrize(("patch", "need"), NEEDS, ids=str)
def test_patch_is_named_when_a_part_that_it_needs_is_gone(
    patch: Patch, need: Name | Text, stand_in: StandIn, tmp_path: Path
) -> None:
    for module in {other.module for other in patch.needs}:
        source = installed_source(module)
        stand_in(module, without(need, source) if module == need.module else source)
    (sentence,) = told_of(patch, tmp_path)
    assert f"the patch {patch.name!r}" in sentence
    assert need.module in sentence
    assert (need.path if isinstance(need, Name) else repr(need.text)) in sentence


def test_sentence_says_which_version_the_patch_was_written_for(tmp_path: Path) -> None:
    patch = Patch("no noise", (("ray", "1.0.0"),), (Name("other.noise", "Noise"),))
    (sentence,) = told_of(patch, tmp_path)
    assert sentence == (
        "the patch 'no noise' does not fit ray 2.60.0: there is no module other.noise;"
        " it was written for ray 1.0.0"
    )


def test_distribution_that_is_installed_is_the_one_that_is_named(tmp_path: Path) -> None:
    versions = (("not-installed-anywhere", "1"), ("ray", "2.60.0"))
    (sentence,) = told_of(Patch("no noise", versions, (Name("other", "Noise"),)), tmp_path)
    assert "fit ray 2.60.0" in sentence


def test_parameter_with_a_new_name_is_told(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in("other.noise", "class Noise:\n    async def make(self, loudness, *, name): ...\n")
    fits = own_patch(Name("other.noise", "Noise.make", ("self", "loudness", "name")))
    assert told_of(fits, tmp_path) == []
    (sentence,) = told_of(own_patch(Name("other.noise", "Noise.make", ("volume",))), tmp_path)
    assert "Noise.make of other.noise takes no parameter 'volume'" in sentence


@pytest.mark.parametrize(
    "source",
    [
        "from elsewhere import noise",
        "import noise",
        "noise = 1",
        "noise: int = 1",
        "if True:\n    noise = 1",
        "try:\n    from elsewhere import other as noise\nexcept ImportError:\n    pass",
    ],
)
def test_every_way_to_have_a_name_counts(source: str, stand_in: StandIn, tmp_path: Path) -> None:
    stand_in("other.source", source)
    assert told_of(own_patch(Name("other.source", "noise")), tmp_path) == []


def test_attribute_that_a_method_sets_counts(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in("other.source", "class A:\n    def f(self):\n        self.b, c = 1, self.d\n")
    assert told_of(own_patch(Name("other.source", "A.b")), tmp_path) == []
    assert len(told_of(own_patch(Name("other.source", "A.d")), tmp_path)) == 1


def test_module_is_found_in_a_package_s_own_file(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in("other.part.__init__", "noise = 1")
    assert told_of(own_patch(Name("other.part", "noise")), tmp_path) == []
