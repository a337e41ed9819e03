"""Whether what Ringfence changes in Ray and vLLM fits the versions that are installed."""

from __future__ import annotations

from models import ray_compat
from models.patches import misfits
from models.vllm import compat
from serving.config import Settings
from serving.ray_cluster import haproxy


class PatchesDoNotFit(Exception):
    """Ray or vLLM is not what a patch was written for. One sentence for each patch."""


def patch_misfits(settings: Settings) -> list[str]:
    """Return one sentence for each patch that does not fit. Imports Ray Serve, but never vLLM."""
    patches = list(ray_compat.PATCHES)
    if any(spec.engine == "vllm" for spec in settings.models):
        patches += compat.PATCHES
    return misfits(patches) + haproxy.misfits()


def check_patches(settings: Settings) -> None:
    """Refuse to run with a Ray or vLLM that a patch does not fit.

    Raises:
        PatchesDoNotFit: names every patch that does not fit, and why.
    """
    if told := patch_misfits(settings):
        advice = "install the locked versions (deploy/locks)"
        raise PatchesDoNotFit("\n".join(f"{sentence}; {advice}" for sentence in told))
