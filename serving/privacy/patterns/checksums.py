"""Check digits of cards, accounts and identity numbers.

Every function takes the number without separators, in upper case, and says whether it checks. A
text of another length or alphabet does not.
"""

from __future__ import annotations

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

    One of its first ten digits is there two or three times, and it does not begin with 0.
    """
    if not _digits(number, 11) or number[0] == "0":
        return False
    if max(map(number[:10].count, number[:10])) not in (2, 3):
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


def ssn(number: str) -> bool:
    """A US social security or individual taxpayer number: no check digit, but some are not given.

    Nothing is refused for its area: made-up and retired numbers are somebody's, too.
    """
    return _digits(number, 9) and number[3:5] != "00" and number[5:] != "0000"


def nhs(number: str) -> bool:
    """A number of the UK's National Health Service."""
    if not _digits(number, 10):
        return False
    return _weighted(number, range(10, 1, -1)) % 11 == -int(number[9]) % 11


def nir(number: str) -> bool:
    """France's social security number, with its key."""
    corsican = number.replace("2A", "19", 1).replace("2B", "18", 1)
    return _digits(corsican, 15) and int(corsican[:13]) % 97 == 97 - int(corsican[13:])


def dni(number: str) -> bool:
    """Spain's DNI or NIE, with its letter."""
    whole = number[:1].translate(str.maketrans("XYZ", "012")) + number[1:-1]
    return _digits(whole, 8) and _DNI_LETTERS[int(whole) % 23] == number[-1]


def codice_fiscale(number: str) -> bool:
    """Italy's tax code of a person."""
    if len(number) != 16 or not (number.isascii() and number.isalnum()):
        return False
    odd = sum(_CODICE_ODD[char] for char in number[:15:2])
    even = sum(int(char) if char.isdigit() else ord(char) - 65 for char in number[1:15:2])
    return (odd + even) % 26 == ord(number[15]) - 65


def pesel(number: str) -> bool:
    """Poland's PESEL."""
    if not _digits(number, 11) or not _dated(number[:6], month=int(number[2:4]) % 20):
        return False
    return (_weighted(number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) + int(number[10])) % 10 == 0


def bsn(number: str) -> bool:
    """The Netherlands' BSN."""
    return _digits(number, 9) and _weighted(number, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def personnummer(number: str) -> bool:
    """Sweden's personnummer, of 10 or 12 digits; a coordination number adds 60 to the day."""
    short = number[-10:]
    if len(number) not in (10, 12) or not luhn(short):
        return False
    return _dated(short[:6], day=int(short[4:6]) % 60)


def tfn(number: str) -> bool:
    """Australia's tax file number."""
    return _digits(number, 9) and _weighted(number, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def cpf(number: str) -> bool:
    """Brazil's CPF."""
    if not _digits(number, 11) or len(set(number)) == 1:
        return False
    return _eleven(number[:9], range(10, 1, -1), number[9]) and _eleven(
        number[:10], range(11, 1, -1), number[10]
    )


def cnpj(number: str) -> bool:
    """Brazil's CNPJ."""
    weights = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
    return (
        _digits(number, 14)
        and _eleven(number[:12], weights[1:], number[12])
        and _eleven(number[:13], weights, number[13])
    )


def dated(number: str) -> bool:
    """Whether it begins with a date of six digits, day first or year first."""
    day_first = number[4:6] + number[2:4] + number[:2]
    return _digits(number[:6], 6) and (_dated(number[:6]) or _dated(day_first))


def _digits(number: str, length: int | None = None) -> bool:
    right = len(number) == length if length else bool(number)
    return right and number.isascii() and number.isdigit()


def _weighted(number: str, weights: Sequence[int]) -> int:
    return sum(int(char) * weight for char, weight in zip(number, weights, strict=False))


def _eleven(number: str, weights: Sequence[int], check: str) -> bool:
    rest = _weighted(number, weights) % 11
    return int(check) == (0 if rest < 2 else 11 - rest)


def _dated(digits: str, *, month: int | None = None, day: int | None = None) -> bool:
    try:
        date(2000, int(digits[2:4]) if month is None else month,
             int(digits[4:6]) if day is None else day)  # fmt: skip
    except ValueError:
        return False
    return True
