"""Writes sentences with annotated personal data as JSON lines; needs presidio-evaluator.

`.bench/pii/bin/python -m benchmarks.pii.sentences COUNT SEED`. People, addresses and templates are
presidio-evaluator's; one sentence in twenty is in lower case.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from typing import Any

# mypy: disable-error-code="import-not-found, misc"
from presidio_evaluator.data_generator import PresidioSentenceFaker
from presidio_evaluator.data_generator.faker_extensions import HospitalProvider
from presidio_evaluator.data_generator.presidio_sentence_faker import (
    presidio_additional_entity_providers,
)

LOCALE = "en_US"
LOWER_CASE_RATIO = 0.05


class OfflineHospitals(HospitalProvider):
    """Provides hospitals from the package's own list; the parent class queries WikiData."""

    def load_hospitals(self, hospital_file: str) -> list[str]:
        """Return the list."""
        del hospital_file
        return list(self.default_list)


def sentences(count: int, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield sentences as `text`, `template` (its number) and `entities` (type, start, end)."""
    providers = [p for p in presidio_additional_entity_providers if p is not HospitalProvider]
    with contextlib.redirect_stdout(io.StringIO()):
        faker = PresidioSentenceFaker(
            locale=LOCALE,
            lower_case_ratio=LOWER_CASE_RATIO,
            entity_providers=[*providers, OfflineHospitals],
            random_seed=seed,
        )
        made = faker.generate_new_fake_sentences(num_samples=count)
    for one in made:
        entities = [
            {"type": s.entity_type, "start": s.start_position, "end": s.end_position}
            for s in one.spans
        ]
        yield {"text": one.full_text, "template": one.template_id, "entities": entities}


if __name__ == "__main__":
    for sentence in sentences(int(sys.argv[1]), seed=int(sys.argv[2])):
        sys.stdout.write(json.dumps(sentence) + "\n")
