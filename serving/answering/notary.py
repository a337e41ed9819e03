"""Receipts of answers: signed statements that they stayed inside, or of what left for them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from serving.answering.explanations import Explanation
from serving.attempts import Call
from serving.egress.chain import Entry
from serving.egress.ledger import EgressLedger
from serving.egress.receipts import Departed, Receipt, Receipts
from serving.errors import NotFound


class LedgerNotary:
    """`Notary`, and receipts of requests that have ended, from the ledger.

    Args:
        receipts: signs.
        ledger: of what left.
    """

    def __init__(self, receipts: Receipts, ledger: EgressLedger) -> None:
        self._receipts = receipts
        self._ledger = ledger

    def receipt(self, call: Call, route: str, departures: Sequence[Entry]) -> str:
        """See `Notary.receipt`."""
        return self._receipts.issue(
            Receipt(
                iat=int(time.time()),
                request_id=call.request_id,
                model=call.model,
                route=route,
                privacy=call.privacy,
                departures=tuple(map(Departed.of, departures)),
            )
        )

    async def receipt_of(self, tenant: str, request_id: str, explained: Explanation) -> str:
        """A receipt of a request that has ended; the answer's own said less if more left later.

        Raises:
            NotFound: nothing answered it.
            DatabaseUnavailable: it cannot be told now.
        """
        searched = [one for one in explained.attempts if one.endpoint == "search"]
        answering = [one for one in explained.attempts if one not in searched] or searched
        answered = [one for one in answering if one.outcome in ("ok", "cancelled")]
        if not answered:
            raise NotFound("No answer was given to this request, so there is no receipt.")
        crossings = await self._ledger.of_request(request_id, tenant)
        departures = [Departed.of(one.departure) for one in crossings]
        loosest = departures[-1].privacy if departures else "local_only"
        return self._receipts.issue(
            Receipt(
                iat=int(time.time()),
                request_id=request_id,
                model=answered[-1].model,
                route=answered[-1].route,
                privacy=explained.decision.privacy if explained.decision else loosest,
                departures=tuple(departures),
            )
        )
