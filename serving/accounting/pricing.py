"""Prices and costs in whole billionths of the currency (nanos, as in Google's `Money`).

A cost is rounded up once, at its end, so that no sum of costs is ever below what was used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from models.catalog import ModelSpec, Price
from models.engine import Usage

_PICOS_OF_MILLIONTH = 10**6  # A price per million tokens, in millionths, is picos of one token.


@dataclass(frozen=True, slots=True)
class Tariff:
    """A model's price in whole numbers: picos (1e-12) of the currency a token, nanos a second."""

    input_picos: int
    cached_picos: int
    output_picos: int
    nanos_per_second: float

    @classmethod
    def of(cls, spec: ModelSpec) -> Self:
        """The tariff of a catalogue entry."""
        return cls.of_price(spec.price, gpu_share=spec.gpu_share)

    @classmethod
    def of_price(cls, price: Price, *, gpu_share: float = 0.0) -> Self:
        """The tariff of a price; `gpu_share` is the GPUs that a request has."""
        cached = price.cached_input_per_million
        per_million = price.input_per_million
        return cls(
            input_picos=int(per_million * _PICOS_OF_MILLIONTH),
            cached_picos=int((per_million if cached is None else cached) * _PICOS_OF_MILLIONTH),
            output_picos=int(price.output_per_million * _PICOS_OF_MILLIONTH),
            nanos_per_second=float(price.per_gpu_second) * gpu_share * 1e9,
        )

    def cost_nanos(self, usage: Usage, *, seconds: float) -> int:
        """The cost of what was used."""
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        picos = (
            (usage.prompt_tokens - cached) * self.input_picos
            + cached * self.cached_picos
            + usage.completion_tokens * self.output_picos
        )
        return self._nanos(picos, seconds)

    def most_nanos(self, usage: Usage, *, seconds: float) -> int:
        """The most that a request can cost which uses no more than this."""
        picos = usage.prompt_tokens * max(self.input_picos, self.cached_picos)
        picos += usage.completion_tokens * self.output_picos
        return self._nanos(picos, seconds)

    def _nanos(self, picos: int, seconds: float) -> int:
        picos += math.ceil(self.nanos_per_second * seconds * 1000)
        return -(-picos // 1000)


def amount(nanos: int) -> str:
    """An amount in the currency, exact, from billionths of it."""
    whole, _, decimals = format(Decimal(nanos).scaleb(-9), "f").partition(".")
    return f"{whole}.{decimals}".rstrip("0").rstrip(".")
