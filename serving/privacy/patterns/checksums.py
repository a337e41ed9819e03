"""Check digits of cards, accounts and identity numbers.

Every function takes the number without separators, in upper case, and says whether it checks. A
text of another length or alphabet does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

_TWICE = bytes.maketrans(b"0123456789", b"0246813579")

_PERMUTED = ("0123456789", "1576283094", "5803796142", "8916043527",
             "9453126870", "4286573901", "2793806415", "7046913258")  # fmt: skip
_DIHEDRAL = ("0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
             "5987604321", "6598710432", "7659821043", "8765932104", "9876543210")  # fmt: skip

_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_CODICE_ODD = dict(
    zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21,
         1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18,
         20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23), strict=True)
)  # fmt: skip
_CODICE_MONTHS = "ABCDEHLMPRST"
_CODICE_DIGITS = str.maketrans("LMNPQRSTUV", "0123456789")
_PESEL_CENTURIES = (1900, 2000, 2100, 2200, 1800)
_LEAP_YEAR = 2000
_CNPJ = re.compile("(?!0{12})[0-9A-Z]{12}[0-9]{2}")


def luhn(number: str) -> bool:
    """ISO/IEC 7812-1, annex B: payment cards, Canada's SIN, Sweden's personnummer."""
    if not _digits(number):
        return False
    reverse = number[::-1].encode()
    total = sum(reverse[::2]) + sum(reverse[1::2].translate(_TWICE)) - 48 * len(number)
    return total % 10 == 0


def mod_97_10(number: str) -> bool:
    """ISO/IEC 7064, MOD 97-10, with its first four characters at the end: an IBAN."""
    if not (number.isascii() and number.isalnum()):
        return False
    return int("".join(str(int(char, 36)) for char in number[4:] + number[:4])) % 97 == 1


def mod_11_10(number: str) -> bool:
    """ISO/IEC 7064, MOD 11,10; of 11 digits: Germany's tax number.

    One of its first ten digits is there two or three times, the others at most once. It does not
    begin with 0.
    """
    if not _digits(number, 11) or number[0] == "0":
        return False
    again = [count for count in map(number[:10].count, set(number[:10])) if count > 1]
    if again not in ([2], [3]):
        return False
    product = 10
    for char in number[:10]:
        product = ((int(char) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(number[10])


def verhoeff(number: str) -> bool:
    """Verhoeff, "Error Detecting Decimal Codes" (1969), of 12 digits: India's Aadhaar."""
    if not _digits(number, 12):
        return False
    check = 0
    for place, char in enumerate(reversed(number)):
        check = int(_DIHEDRAL[check][int(_PERMUTED[place % 8][int(char)])])
    return check == 0


def aba(number: str) -> bool:
    """A US routing number."""
    if not _digits(number, 9) or not (
        number[:2] <= "12" or "21" <= number[:2] <= "32" or "61" <= number[:2] <= "72"
    ):
        return False
    return _weighted(number, (3, 7, 1) * 3) % 10 == 0


def nhs(number: str) -> bool:
    """A number of the UK's National Health Service."""
    if not _digits(number, 10):
        return False
    return _weighted(number, range(10, 1, -1)) % 11 == -int(number[9]) % 11


def nir(number: str) -> bool:
    """France's social security number, with its key."""
    department = {"2A": "19", "2B": "18"}.get(number[5:7], number[5:7])
    corsican = number[:5] + department + number[7:]
    return _digits(corsican, 15) and int(corsican[:13]) % 97 == 97 - int(corsican[13:])


def dni(number: str) -> bool:
    """Spain's DNI or NIE, with its letter."""
    whole = number[:1].translate(str.maketrans("XYZ", "012")) + number[1:-1]
    return _digits(whole, 8) and _DNI_LETTERS[int(whole) % 23] == number[-1]


def codice_fiscale(number: str) -> bool:
    """Italy's tax code of a person. Women have 40 added to the day of their birth."""
    if len(number) != 16 or not (number.isascii() and number.isalnum()):
        return False
    year, day = (number[at : at + 2].translate(_CODICE_DIGITS) for at in (6, 9))
    month = _CODICE_MONTHS.find(number[8]) + 1
    if not _digits(year + day) or not _is_date(_year_of(year), month, int(day) % 40):
        return False
    odd = sum(_CODICE_ODD[char] for char in number[:15:2])
    even = sum(int(char) if char.isdigit() else ord(char) - 65 for char in number[1:15:2])
    return (odd + even) % 26 == ord(number[15]) - 65


def pesel(number: str) -> bool:
    """Poland's PESEL."""
    if not _digits(number, 11):
        return False
    century, month = divmod(int(number[2:4]), 20)
    if not _is_date(_PESEL_CENTURIES[century] + int(number[:2]), month, int(number[4:6])):
        return False
    return (_weighted(number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) + int(number[10])) % 10 == 0


def personnummer(number: str) -> bool:
    """Sweden's personnummer, of 10 or 12 digits; a coordination number adds 60 to the day."""
    if len(number) not in (10, 12) or not (_digits(number) and luhn(number[-10:])):
        return False
    year = _year_of(number[:2]) if len(number) == 10 else int(number[:4])
    return _is_date(year, int(number[-8:-6]), int(number[-6:-4]) % 60)


def tfn(number: str) -> bool:
    """Australia's tax file number, of 8 or 9 digits."""
    return (
        _digits(number)
        and len(number) in (8, 9)
        and _weighted(number, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0
    )


def cpf(number: str) -> bool:
    """Brazil's CPF."""
    if not _digits(number, 11) or len(set(number)) == 1:
        return False
    return _eleven(number[:9], range(10, 1, -1), number[9]) and _eleven(
        number[:10], range(11, 1, -1), number[10]
    )


def cnpj(number: str) -> bool:
    """Brazil's CNPJ, which may have letters since 2026."""
    weights = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
    return (
        _CNPJ.fullmatch(number) is not None
        and _eleven(number[:12], weights[1:], number[12])
        and _eleven(number[:13], weights, number[13])
    )


def kvnr(number: str) -> bool:
    """Germany's health insurance number: a letter and nine digits."""
    if not ("A" <= number[:1] <= "Z" and _digits(number[1:], 9)):
        return False
    expanded = f"{ord(number[0]) - 64:02}{number[1:9]}"
    doubled = [int(char) * (1 + place % 2) for place, char in enumerate(expanded)]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == int(number[9])


def rrn(number: str) -> bool:
    """Korea's resident registration number. Those given since October 2020 have no check digit."""
    if not _digits(number, 13) or number[7:9] > "96":
        return False
    century = 1900 if number[6] in "1256" else 2000 if number[6] in "3478" else 1800
    if not _is_date(century + int(number[:2]), int(number[2:4]), int(number[4:6])):
        return False
    rest = _weighted(number, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11
    return (11 - rest) % 10 == int(number[12])


def thai_id(number: str) -> bool:
    """Thailand's identity number."""
    if not _digits(number, 13) or number[0] in "09":
        return False
    return (11 - _weighted(number, range(13, 1, -1)) % 11) % 10 == int(number[12])


def kimlik(number: str) -> bool:
    """Turkey's T.C. Kimlik number, which has two check digits."""
    if not _digits(number, 11) or number[0] == "0":
        return False
    first = -_weighted(number, (3, 1) * 4 + (3,)) % 10
    return number[9:] == f"{first}{(first + sum(map(int, number[:9]))) % 10}"


def south_african_id(number: str) -> bool:
    """South Africa's identity number: a date of birth, and Luhn over all."""
    if not _digits(number, 13) or number[10] not in "01" or not luhn(number):
        return False
    return _is_date(_year_of(number[:2]), int(number[2:4]), int(number[4:6]))


def dated(number: str) -> bool:
    """Whether it begins with a date of six digits, day first or year first."""
    if not _digits(number[:6], 6):
        return False
    first, month, last = (int(number[at : at + 2]) for at in (0, 2, 4))
    return _is_date(_LEAP_YEAR, month, last) or _is_date(_LEAP_YEAR, month, first)


def _digits(number: str, length: int | None = None) -> bool:
    right = len(number) == length if length else bool(number)
    return right and number.isascii() and number.isdigit()


def _weighted(number: str, weights: Sequence[int]) -> int:
    """The sum of digits times weights; a letter counts as its distance from `0` in ASCII."""
    return sum((ord(char) - 48) * weight for char, weight in zip(number, weights, strict=False))


def _eleven(number: str, weights: Sequence[int], check: str) -> bool:
    rest = _weighted(number, weights) % 11
    return int(check) == (0 if rest < 2 else 11 - rest)


def _year_of(two_digits: str) -> int:
    """A year that ends so; its century matters for a 29 February of 1900 only."""
    return 2000 + int(two_digits)


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True
