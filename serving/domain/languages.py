"""Languages by code: their names, their scripts, and which of them the detector of names reads.

Codes of languages are those of ISO 639 (`de`), codes of scripts those of ISO 15924 (`Latn`). Only
languages that an identifier tells apart are here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

READ: Final = frozenset({"en"})
"""Languages in which the detector finds names."""


@dataclass(frozen=True, slots=True)
class Language:
    """A language: its English name, and the scripts in which it is written."""

    name: str
    scripts: frozenset[str]


_TABLE = """
    af Afrikaans Latn          am Amharic Ethi            ar Arabic Arab
    as Assamese Beng           az Azerbaijani Latn,Cyrl   ba Bashkir Cyrl
    be Belarusian Cyrl         bg Bulgarian Cyrl          bn Bengali Beng
    br Breton Latn             bs Bosnian Latn,Cyrl       ca Catalan Latn
    cs Czech Latn              cy Welsh Latn              da Danish Latn
    de German Latn             dz Dzongkha Tibt           el Greek Grek
    en English Latn            eo Esperanto Latn          es Spanish Latn
    et Estonian Latn           eu Basque Latn             fa Persian Arab
    fi Finnish Latn            fo Faroese Latn            fr French Latn
    fy Frisian Latn            ga Irish Latn              gd Gaelic Latn
    gl Galician Latn           gu Gujarati Gujr           ha Hausa Latn
    he Hebrew Hebr             hi Hindi Deva              hr Croatian Latn
    ht Haitian Latn            hu Hungarian Latn          hy Armenian Armn
    id Indonesian Latn         ig Igbo Latn               is Icelandic Latn
    it Italian Latn            ja Japanese Hani,Hira,Kana jv Javanese Latn
    ka Georgian Geor           kk Kazakh Cyrl             km Khmer Khmr
    kn Kannada Knda            ko Korean Hang             ku Kurdish Latn,Arab
    ky Kyrgyz Cyrl             la Latin Latn              lb Luxembourgish Latn
    lg Ganda Latn              ln Lingala Latn            lo Lao Laoo
    lt Lithuanian Latn         lv Latvian Latn            mg Malagasy Latn
    mk Macedonian Cyrl         ml Malayalam Mlym          mn Mongolian Cyrl
    mr Marathi Deva            ms Malay Latn              mt Maltese Latn
    my Burmese Mymr            ne Nepali Deva             nl Dutch Latn
    no Norwegian Latn          oc Occitan Latn            om Oromo Latn
    or Odia Orya               pa Punjabi Guru            pl Polish Latn
    ps Pashto Arab             pt Portuguese Latn         qu Quechua Latn
    ro Romanian Latn           ru Russian Cyrl            rw Kinyarwanda Latn
    sa Sanskrit Deva           si Sinhala Sinh            sk Slovak Latn
    sl Slovenian Latn          sn Shona Latn              so Somali Latn
    sq Albanian Latn           sr Serbian Latn,Cyrl       st Sotho Latn
    sv Swedish Latn            sw Swahili Latn            ta Tamil Taml
    te Telugu Telu             tg Tajik Cyrl              th Thai Thai
    tk Turkmen Latn            tl Tagalog Latn            tr Turkish Latn
    tt Tatar Cyrl              ug Uyghur Arab             uk Ukrainian Cyrl
    ur Urdu Arab               uz Uzbek Latn,Cyrl         vi Vietnamese Latn
    xh Xhosa Latn              yo Yoruba Latn             zh Chinese Hani,Bopo
    zu Zulu Latn
"""


def _languages() -> dict[str, Language]:
    words = _TABLE.split()
    rows = zip(words[::3], words[1::3], words[2::3], strict=True)
    return {code: Language(name, frozenset(scripts.split(","))) for code, name, scripts in rows}


LANGUAGES: Final[Mapping[str, Language]] = MappingProxyType(_languages())


def named(codes: Iterable[str]) -> str:
    """Languages as people read them, such as `English (en), German (de)`."""
    return ", ".join(sorted(f"{LANGUAGES[code].name} ({code})" for code in codes))
