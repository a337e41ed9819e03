"""Objects that take seconds to load, shared by all tests of a process."""

from __future__ import annotations

from functools import cache

from serving.privacy.detector.personal_data import PersonalData
from serving.privacy.names.lexicon import Lexicon
from serving.privacy.names.models import PACKAGES, NameModels, directory_of
from serving.privacy.names.name_rules import NameRules
from serving.privacy.patterns.operator_rules import OperatorRules


@cache
def lexicon() -> Lexicon:
    return Lexicon(directory_of(PACKAGES[0]))


@cache
def name_rules() -> NameRules:
    return NameRules(lexicon())


@cache
def models() -> NameModels:
    return NameModels()


@cache
def personal_data() -> PersonalData:
    return PersonalData(OperatorRules.of({"staff": r"EMP-\d{5}"}, {"projects": ("Bluebird",)}))
