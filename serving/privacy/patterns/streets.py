"""Streets with their numbers, as several countries write them."""

from __future__ import annotations

import re
from typing import Final

from serving.privacy.patterns.pattern_spec import PatternSpec, starting

# USPS Publication 28, appendix C1, and what the United Kingdom, Ireland and Australia add.
_SUFFIXES = (
    "Alley|Aly|Anex|Arcade|Avenue|Ave|Av|Bayou|Beach|Bend|Bluffs?|Bottom|Boulevard|Blvd|Branch"
    "|Bridge|Brooks?|Burgs?|Bypass|Camp|Canyon|Cape|Causeway|Centers?|Centre|Ctr|Chase|Circles?"
    "|Cir|Cliffs?|Close|Club|Common|Corners?|Course|Courts?|Ct|Coves?|Creek|Crescent|Cres|Crest"
    "|Crossing|Crossroad|Curve|Dale|Dam|Divide|Drives?|Dr|Drove|Esplanade|Estates?|Expressway|Expy"
    "|Extensions?|Falls?|Ferry|Fields?|Flats?|Fords?|Forest|Forges?|Forks?|Fort|Freeway|Fwy"
    "|Gardens?|Gdns|Gate|Gateway|Glens?|Greens?|Grove|Grv|Harbors?|Haven|Heights?|Hts|Highway|Hwy"
    "|Hills?|Hollow|Inlet|Islands?|Isle|Junctions?|Keys?|Knolls?|Lakes?|Land|Landing|Lane|Ln"
    "|Lights?|Loaf|Locks?|Lodge|Loop|Mall|Manors?|Meadows?|Mews|Mills?|Mission|Motorway|Mount"
    "|Mountains?|Neck|Orchard|Oval|Overpass|Parade|Parks?|Parkways?|Pkwy|Pass|Passage|Path|Pike"
    "|Pines?|Place|Pl|Plains?|Plaza|Points?|Ports?|Prairie|Promenade|Quay|Radial|Ramp|Ranch|Rapids?"
    "|Rest|Ridges?|Rise|River|Roads?|Rd|Route|Row|Rue|Run|Shoals?|Shores?|Skyway|Springs?|Spurs?"
    "|Squares?|Sq|Station|Stravenue|Stream|Streets?|St|Summit|Terrace|Terr?|Throughway|Trace|Track"
    "|Trafficway|Trail|Trl|Trailer|Tunnel|Turnpike|Underpass|Unions?|Valleys?|Viaduct|Views?"
    "|Villages?|Ville|Vista|Walks?|Wall|Ways?|Wells?|Wharf|Yard"
)
_LOWER_SUFFIXES = (
    "street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|place|square|terrace|parkway"
    "|highway|circle|crescent"
)
_UNIT = (
    r"(?:,?[ \n](?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Fl|Room|Rm|Building|Bldg|No|#)\.?[ ]?#?"
    r"[ ]?[A-Za-z]?[0-9]{0,5}[A-Za-z]?(?![A-Za-z0-9]))?"
)
_CAPITAL = r"[A-Z\u00c0-\u00de]"
_NAME = rf"{_CAPITAL}[\w'\u2019.-]{{1,29}}"
_PART = rf"(?:{_CAPITAL}[\w'\u2019.-]{{0,29}}|[0-9]{{1,3}}(?:st|nd|rd|th)|of|the|and|de)[ ]"
_NUMBER = (
    r"[0-9](?<![\w.,$\u20ac\u00a3/-].)[0-9]{0,4}(?:[A-Za-z]|[-/][0-9]{1,4}[A-Za-z]?)?"
    "(?:[ ]?(?:bis|ter|quater))?,?[ ]"
)
_OF = "(?:de la|de los|de las|du|des|de|della|dei|degli|del|di|dos|das|da|do|la|le|les) ?"
_NAMES = (
    rf"(?:{_OF}){{0,2}}(?:[dl][\u2019'])?{_NAME}"
    rf"(?:[ -](?:{_OF}){{0,2}}(?:[dl][\u2019'])?{_NAME}){{0,3}}"
)
_NUMBER_AFTER = (
    r",?[ ](?:n[.\u00b0\u00ba]{0,2} ?|nr\.? ?|num\.? ?)?[1-9][0-9]{0,3}(?: ?[-/] ?[0-9]{1,4})?"
    r"(?: ?[a-zA-Z](?!\w))?(?![\w%]|[ .\-][0-9])"
)
_WORD_START = r"[A-ZÄÖÜÅ](?<!\w.)"
_WAYS = (
    "[Cc]alle", "C/", r"[Cc]l\.", "[Aa]venida", r"[Aa]vda\.?", r"[Aa]v\.", "[Pp]laza", "[Pp]aseo",
    "[Cc]amino", "[Cc]arretera", "[Rr]onda", "[Vv]ia(?:le)?", "[Pp]iazza", "[Cc]orso", "[Ll]argo",
    "[Vv]icolo", "[Ss]trada", "[Rr]ua", "[Tt]ravessa", "[Ee]strada", "[Aa]lameda", r"[Uu]l\.",
    r"[Aa]l\.", r"[Pp]l\.", r"[Oo]s\.", "Am", "An der", "In der", "Unter den", "Zum", "Zur",
)  # fmt: skip


def _street(pattern: str, score: float) -> PatternSpec:
    return PatternSpec(entity="ADDRESS", pattern=re.compile(pattern), alone=score, anywhere=True)


SPECS: Final = (
    # 12 Main Street; 12b St James's Road, Flat 3.
    _street(
        rf"{_NUMBER}(?!of |the |and ){_PART}(?:{_PART}){{0,3}}?(?:{_SUFFIXES})(?![\w'\u2019])"
        r"(?:(?:(?<= [A-Z][a-z])|(?<= [A-Z][a-z]{2})|(?<= Blvd))\.)?"
        rf"(?:[ ][NSEW]{{1,2}}(?!\w))?{_UNIT}",
        0.75,
    ),
    _street(
        rf"{_NUMBER}(?:[a-z][a-z'.-]{{1,29}}[ ]){{1,2}}?(?:{_LOWER_SUFFIXES})(?![\w'\u2019])"
        f"{_UNIT}",
        0.55,
    ),
    # Hauptstraße 5, Kerkstraat 12, Storgatan 3; Berliner Ring 12.
    _street(
        rf"{_WORD_START}(?:[\w.\u2019']{{0,29}}[ -][A-ZÄÖÜÅ]){{0,3}}?[\w\u2019']{{1,29}}?"
        "(?:stra(?:ße|sse)|str[.]|weg|platz|allee|gasse|(?:en|rd|st|dt|sa|d)ring|damm|ufer|markt"
        "|straat|laan|plein|gracht|kade|dijk|steeg|gatan|vägen|gränd|gade|vej|vænget|veien|vegen"
        "|gata|svingen|katu|kuja|polku|tie)"
        f"{_NUMBER_AFTER}",
        0.75,
    ),
    _street(
        rf"{_WORD_START}[\w.\u2019']{{0,29}}[ -](?:[A-ZÄÖÜÅ][\w.\u2019']{{0,29}}[ -]){{0,2}}?"
        f"(?:Stra(?:ße|sse)|Str[.]|Weg|Platz|Allee|Gasse|Ring|Damm|Ufer|Markt|út|utca|u[.]|tér"
        f"|Gränd|Allé){_NUMBER_AFTER}",
        0.7,
    ),
    # 12 rue de la Paix.
    _street(
        rf"{_NUMBER}(?:[Rr]ue|[Aa]venue|[Aa]v\.|[Bb]oulevard|[Bb]d\.?|[Pp]lace|[Aa]llées?|[Cc]hemin"
        rf"|[Ii]mpasse|[Qq]uai|[Rr]oute|[Cc]ours|[Ss]quare|[Ff]aubourg)[ ]{_NAMES}",
        0.75,
    ),
    # Calle Mayor 5; Via Roma, 12; Rua Augusta 100; ul. Długa 7; Unter den Linden 1.
    _street(
        starting(*_WAYS, not_after=r"\w") + rf"[ ]?{_NAMES}{_NUMBER_AFTER}",
        0.7,
    ),
)
