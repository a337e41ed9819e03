"""Receipts of answers: signed statements that they stayed inside, or of what left for them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from serving.domain.calls import Call
from serving.egress.ledger.chain import Entry
from serving.egress.ledger.receipts import Departed, Receipt, Receipts


class SigningIssuer:
    """`ReceiptIssuer` with a key.

    Args:
        receipts: signs.
    """

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    def receipt(self, call: Call, route: str, departures: Sequence[Entry]) -> str:
        """See `ReceiptIssuer.receipt`."""
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
