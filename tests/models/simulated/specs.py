"""A simulated model that has few slots and a short queue, for the contract of engines."""

from __future__ import annotations

from models.catalog import ModelSpec, Simulation

SLOTS = 3
_QUEUED = 2

SPEC = ModelSpec(
    id="simulated",
    engine="simulated",
    context_tokens=2000,
    max_ongoing_requests=SLOTS,
    max_queued_requests=_QUEUED,
    simulation=Simulation(
        step_base_ms=1, step_per_sequence_ms=0, prefill_ms_per_token=0, max_batch=SLOTS
    ),
)

MOST_OPEN = SLOTS + SLOTS + _QUEUED
"""Its queue is beside its batch, and holds as many as a deployment lets in."""
