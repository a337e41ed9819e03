"""Dates of birth: dates that words near them say are one."""

from __future__ import annotations

import re
from typing import Final

from serving.privacy.patterns.pattern_spec import PatternSpec, words

_BIRTH = words(
    "born", "dob", "d.o.b", "date of birth", "birth date", "birthdate", "birthday", "birth", "geb",
    "geb.", "geboren", "geburtsdatum", "geburtstag", "né", "née", "né(e)", "né le", "née le",
    "naissance", "date de naissance", "nacido", "nacida", "nació", "nacimiento",
    "fecha de nacimiento", "nato", "nata", "nascita", "data di nascita", "nascido", "nascida",
    "nascimento", "geboortedatum", "ur.", "urodzony", "urodzona", "urodzenia", "född",
    "födelsedatum", "født", "syntynyt", "出生", "生年月日",
)  # fmt: skip

_DATE = re.compile(
    r"[0-9](?<![0-9A-Za-z].)[0-9]{0,3}(?:"
    r"(?P<sep>[./\- ])[ ]?[0-9]{1,2}(?P=sep)[ ]?[0-9]{1,4}"
    r"|(?:st|nd|rd|th|er|[.\u00ba])?[ \-.]{1,2}(?:of (?:the )?|de |di )?[^\W\d_]{3,10}[.,]?"
    r"[ \-.]{1,2}(?:de |of )?[0-9]{2,4}"
    r"|年[0-9]{1,2}月[0-9]{1,2}日?"
    r"|(?<=[0-9]{4})[0-9]{4}"
    r")(?![0-9A-Za-z])"
)
_MONTH_FIRST = re.compile(
    r"(?<![^\W_])[^\W\d_]{3,10}\.?[ ][0-9]{1,2}(?:st|nd|rd|th)?,?[ ][0-9]{4}(?![0-9A-Za-z])"
)


SPECS: Final = tuple(
    PatternSpec(
        entity="BIRTH_DATE", pattern=pattern, near=_BIRTH, named=0.85, reach=48, anywhere=True
    )
    for pattern in (_DATE, _MONTH_FIRST)
)
