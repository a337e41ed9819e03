"""What a client is told when a limit or a budget refuses its request."""

from __future__ import annotations

import math
from collections.abc import Mapping

from serving.admission.demand import Demand, LimitReached, OverBudget, RateMeasure, Verdict
from serving.admission.policies import Policy
from serving.domain.errors import (
    AdmissionUnavailable,
    BudgetExhausted,
    BudgetHeld,
    RateLimited,
    TooManyTokens,
)
from serving.domain.quota import Quota


def check_tokens(tokens: int, policy: Policy) -> None:
    """Refuse what no waiting would help."""
    bounds = [one.tokens_per_minute for one in policy.rates]
    for bound in [policy.tokens_per_request, *bounds]:
        if bound is not None and tokens > bound:
            raise TooManyTokens(
                f"This request could use {tokens} tokens, prompt and answer together; at most "
                f"{bound} are allowed. Shorten it, or lower max_tokens.",
                param="max_tokens",
            )


def granted(verdict: Verdict, demand: Demand, policy: Policy) -> Quota:
    """The quota left, or the refusal as an error."""
    match verdict:
        case Quota():
            return verdict
        case LimitReached():
            raise RateLimited(
                f"The {_LIMITS[verdict.measure]} of this {_owner(demand, verdict)} is reached. "
                f"Try again in {max(1, math.ceil(verdict.wait_s))} s.",
                retry_after_s=verdict.wait_s,
                quota=verdict.quota,
            )
        case OverBudget():
            window = policy.budgets[verdict.budget].window
            raise (_held if verdict.in_flight else _exhausted)(
                policy.budgets[verdict.budget].subject.kind, window
            )
    raise AdmissionUnavailable("Budgets cannot be checked at the moment. Try again soon.")


_LIMITS: Mapping[RateMeasure, str] = {
    "requests_per_minute": "limit of requests per minute",
    "tokens_per_minute": "limit of tokens per minute",
    "concurrent_requests": "limit of concurrent requests",
}


def _owner(demand: Demand, refused: LimitReached) -> str:
    """`key`, `tenant` or `model`."""
    return demand.limits[refused.subject].subject.partition(":")[0]


def _exhausted(kind: str, window: str) -> BudgetExhausted:
    return BudgetExhausted(
        f"The {_WINDOWS[window]} budget of this {kind} does not cover this request."
    )


def _held(kind: str, window: str) -> BudgetHeld:
    return BudgetHeld(
        f"Running requests may use up the {_WINDOWS[window]} budget of this {kind}. "
        "Try again when they have ended."
    )


_WINDOWS = {"day": "daily", "month": "monthly", "total": "total"}
