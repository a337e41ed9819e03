"""Identifiers and secrets with a pattern are found in any writing, with few false positives."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pii.generated_identifiers import samples
from serving.privacy.patterns.patterns import find
from serving.privacy.spans import EntityType

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = (
    "-----BEGIN EC PRIVATE KEY-----\n"
    "MHcCAQEEIBkg4LVWM9nuwNSk3yByxZpYRTBnVJk5AwEHoUQDQgAE\n"
    "-----END EC PRIVATE KEY-----"
)

# The value that is to be found stands between the signs.
EXAMPLES: dict[EntityType, list[str]] = {
    "EMAIL": [
        "Write to «jane.doe+tag@mail.example.co.uk».",
        "mailto:«jane@example.com»?subject=x",
        "(«o'brien@example.org»)",
        "«jürgen@müller.example»",
        "ask «jane @ example.com» please",
        "ask «jane (at) example (dot) com» please",
        "ask «jane[at]example.com» please",
        "email=«jane%40example.com»&x=1",
        "«root@[192.0.2.1»]",
    ],
    "PHONE": [
        "«+44 20 7946 0958»",
        "«+44 (0)20 7946 0958»",
        "«+1-555-123-4567 ext. 12»",
        "«+919876543210»",
        "«0049 30 1234567»",
        "«(555) 123-4567»",
        "«555-123-4567»",
        "«555.123.4567x890»",
        "«001-555-123-4567»",
        "«1-800-555-0199»",
        "«020 7946 0958» is in London",
        "«07700 900123» is too",
        "«01 23 45 67 89» in Paris",
        "«01.23.45.67.89» in Paris",
        "«030/1234567» in Berlin",
        "«98765 43210» in Pune",
        "It is «5551234567».",
        "It is «675 548 211».",
        "It is «23-79-30-60».",
        "It is «53 324 58 63».",
        "It is «950 90 303».",
        "It is «(11) 5241-7356».",
        "It is «(027) 2544-324».",
        "It is «03381 57 26 21».",
        "It is «06-68193522».",
        "It is «0322 6478254».",
        "phone «555-0123»",
        "Tel.: «12 34 56 78»",
        "\u7535\u8bdd«13800138000»\u3002",
    ],
    "IBAN": [
        "«DE89 3704 0044 0532 0130 00» and more",
        "«GB29NWBK60161331926819»",
        "«gb29 nwbk 6016 1331 9268 19»",
        "«FR14 2004 1010 0505 0001 3M02 606» at 5",
        "«DE88 3704 0044 0532 0130 00», which does not check",
        "«MT84-MALT-0110-0001-2345-MTLC-AST0-01S»",
    ],
    "CARD": [
        "«4111 1111 1111 1111»",
        "«4111111111111111»",
        "«4111 1111 1111 1112», which does not check",
        "«4111111111111112», which does not check",
        "«3782-822463-10005»",
        "«30569309025904»",
        "«6759649826438453»",
        "«4111 1111 1111 1111» 12/27 123",
        "2024-05-01 «5555 5555 5555 4444»",
        "«4111 11111111 1111» in odd groups",
        "«4111 - 1111 - 1111 - 1111»",
        "«41 11 11 11 11 11 11 11»",
        "card «6041 3712 9384 711»",
        "Visa «4111 1111 1111 1»",
    ],
    "ACCOUNT": [
        "routing number «021000021»",
        "account number «000123456789»",
        "Konto-Nr. «12345678»",
        "«12-34-56 12345678»",
        "sort code «12-34-56»",
        "BIC: «DEUTDEFF500»",
        "a/c «1234-5678-90»",
        "IFSC «HDFC0001234»",
        "«bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq»",
        "«0x52908400098527886E0F7030069857D2E4169EE7»",
        "«16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ» is it",
    ],
    "NATIONAL_ID": [
        "«078-05-1120»",
        "«078 05 1120»",
        "SSN «078051120»",
        "ITIN «900-70-1234»",
        "«AB 12 34 56 C»",
        "NHS number «943 476 5919»",
        "SIN «046454286»",
        "«046 454 286» it was",
        "Personalausweis «L01X00T471»",
        "«2 55 08 14 168 025 38»",
        "«12345678Z»",
        "«X1234567L»",
        "«44051401359» it was",
        "BSN «111222333»",
        "«811218-9876»",
        "«2341 2341 2346» is hers",
        "Aadhaar: «234123412346»",
        "passport number «C01X00T47»",
        "Reisepass «C01X00T47»",
        "driver's license «D123-4567-8901»",
        "«MORGA657054SM9IJ» of the DVLA",
        "national id «AB-1234567»",
        "«85.07.30-033.28»",
        "«756.9217.0769.85»",
        "«11010519491231002X»",
        "«BADD110313HCMLNS09»",
        "«A123456780» it was",
        "carta d'identita «CA12345AA»",
        "voter «KSD1287349»",
        "«S2740116C» it was",
        "«1-1234-56789-01-4»",
        "Thai ID «1101700230703»",
        "«9601211234561» it was",
        "«10000000146» it was",
        "«8001015009087» it was",
        "NIN «12345678901»",
        "«131052-308T»",
    ],
    "TAX_ID": [
        "EIN «12-3456789»",
        "«86095742719» it was",
        "«65 929 970 489»",
        "«RSSMRA85T10A562S»",
        "«ABCPE1234F»",
        "«27AAPFU0939F1ZV»",
        "«GODE561231GR8»",
        "TFN «123 456 782»",
        "«529.982.247-25»",
        "«11.222.333/0001-81»",
        "«12.ABC.345/01DE-35»",
        "«DE123456789»",
        "«ATU12345678»",
        "«NL123456789B01»",
        "Steuernummer «93/815/08152»",
    ],
    "BIRTH_DATE": [
        "born on «12 March 1990» in",
        "Born «March 12, 1990»",
        "DOB: «03/12/1990»",
        "geb. «12.03.1990»",
        "née le «12 mars 1990»",
        "fecha de nacimiento: «12 de marzo de 1990»",
        "date of birth «1990-03-12»",
        "«1990-03-12» is her birthday",
        "\u751f\u5e74\u6708\u65e5 «1990\u5e743\u670812\u65e5»",
    ],
    "IP": [
        "from «192.0.2.10».",
        "«10.1.2.3»:8080",
        "«198.51.100.7»/24",
        "[«2001:db8::8a2e:370:7334»]:443",
        "«fe80::1ff:fe23:4567:890a»",
        "«2001:0db8:0000:0000:0000:8a2e:0370:7334»",
    ],
    "MAC": [
        "«00:1B:44:11:3A:B7»",
        "«00-1b-44-11-3a-b7»",
        "«001b.4411.3ab7»",
        "«aa:bb:cc:dd:ee:ff»",
    ],
    "URL": [
        "«https://jane:hunter2@example.com/a»",
        "«postgresql://app:p@ss/w0rd@db.example:5432/x».",
        "«https://example.com/a?id=4&access_token=abc»",
        "«https://x.blob.example/c?sv=1&sig=a%2Fb»",
        "«https://example.com/cb#id_token=abc»)",
    ],
    "SECRET": [
        "«sk-abcdefghijklmnopqrst1234»",
        "«sk-ant-api03-abc_def-GHI123456789»",
        "«sk-rf-0123456789Ab-" + "a" * 43 + "»",
        "«AKIAIOSFODNN7EXAMPLE»",
        "aws_secret_access_key = «wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»",
        "«ghp_abcdefghijklmnopqrstuvwxyz0123456789»",
        "«glpat-abcdefghij0123456789»",
        "«xoxb-123456789012-abcdefABCDEF»",
        "«SG.abcdefghijklmnopqrstuv.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO_P»",
        "«AIzaSyA-abcdefghijklmnopqrstuvwxyz01234»",
        "«hf_abcdefghijklmnopqrstuvwxyzABCDEFGH»",
        f"«{JWT}»",
        f"Authorization: Bearer «{JWT}»",
        "curl -H 'Authorization: Bearer «abcDEF123456.xyz»'",
        "Authorization: Basic «amFuZTpodW50ZXIy»",
        f"«{PEM}» is it",
        "password: «hunter2»",
        "Passwort ist «Geheim123!»",
        "PASSWORD='«correct horse battery»'",
        "DB_PASSWORD=«swordfish»",
        "the password is «hunter2».",
        'password: "«CorrectHorse»"',
        "password: «%7gH2.x!»",
        "api_key='«AbCdEfGhIjKlMnOpQrStUv»'",
        "mysql --password «hunter2» -h db",
        "<password>«hunter2»</password>",
        "root:«$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW»:1",
        '"client_secret": "«abcdef»"',
        '{"api_key": "«0123456789abcdef0123456789abcdef»"}',
        "api key: «3f2b1c4d-5e6f-7a8b-9c0d-1e2f3a4b5c6d»",
        "The token we got, «q7Wz4Lr9XvT2mK8sB1nD», works.",
        "DefaultEndpointsProtocol=https;AccountKey=«" + "Ab1+" * 21 + "Ab==»",
    ],
    "ADDRESS": [
        "at «12 Main Street, Apt 4», we",
        r"at\n«12 Main Street»",
        "at «221b Baker Street».",
        "at «1600 Pennsylvania Avenue NW»",
        "at «742 evergreen terrace»",
        "at «5 St. James's Square»",
        "in der «Hauptstraße 5»,",
        "in «Am Alten Markt 12a»",
        "au «12 bis, rue de la Paix»,",
        "en «Calle Mayor 5»",
        "in «Via Roma, 12»",
        "in «Kerkstraat 12»",
        "in «Prenzlauer Allee 92»",
        "på «Fosiebyvägen 30»",
        "in «Izabella u. 74»",
        "at «12-14 High St.» now",
        "na «Rua Augusta 100»",
        "«PO Box 1234»",
        "«Postfach 12 34»",
        "Springfield, «IL 62701»",
        "Houston, «Texas 77001-1234»",
        "Cambridge, «Massachusetts 02138»",
        "London «SW1A 1AA»",
        "Ottawa «K1A 0B1»",
        "Hauptstraße 5, «10115 Berlin»",
        "«1012 AB Amsterdam»",
        "zip code «90210»",
    ],
}

BENIGN = """
The meeting is on 2024-05-01 at 12:30:45 in room 204; the release 1.2.3 came out in March 2023 and
version 10.0.19041.1 a year later. We sold 1,234,567 units at $19.99 each (EUR 1.234.567,89), which
is 12.5% more than in 2019-2020. See RFC 9110, section 15.5.4, ISO 8601 and chapters 3, 4 and 11.

Order 4829301 and ticket #20240117 are done; invoice INV-2024-00017 is open, SKU 8412-AB. Commit
9f86d081884c7d659a2feaa0c55ad015a3bf4f1b fixed it, the image is
sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, and the request id was
550e8400-e29b-41d4-a716-446655440000. The file has 1048576 bytes and 65536 lines; the epoch was
1700000000 seconds, or 1700000000000 ms, and pi is 3.14159265358979.

```python
def area(width: float, height: float) -> float:
    token = tokens[i + 1]
    key = f"{name}_{index:03d}"
    password = getpass.getpass("Password: ")
    secret = os.environ["APP_SECRET"]
    return max(0.0, width * height) @ matrix.transpose(0, 1)

@app.route("/items/<int:item_id>")
async def item(item_id: int, *, api_key: str = Depends(api_key)) -> Item:
    x = a[1:2, ::3]; y = std::vector<int>{1, 2, 3}
    return await store.get(item_id, token=token, limit=100)
```

The key idea is that a token is about four characters long, so 4096 tokens are 16000 characters.
The password is required and must be at least 12 characters. A primary key is unique. The secret of
good tea is water at 95 degrees. Authorization is checked first. Born in the north, the river is
230 miles long. He ran 5 miles in 42 minutes and 30 seconds and came in 3rd of 118. Call the
function with two arguments. On Monday 14 people came; 9 of them left by 10 pm. Section 8 explains
the 80/20 rule. The account was closed. The card was blue. Our address is known to all who need it.
Chapter 12 of the Street Atlas lists 350 maps. Engineering 101 starts in Spring 2025; String 5 is
out of tune. GET /v1/items?page=2&limit=50 HTTP/1.1 gave 404 after 0.231 s from localhost
(127.0.0.1) port 8000. See https://example.com/docs/guide.html?page=2#section-4 and
git@github.com:owner/name.git. Let a = 1, b = 2, c = 3; the vector is (0.12, -0.55, 0.91); the
matrix is 3 x 4 x 5. ISBN 978-3-16. During 2001 he moved 8 boxes to 3 rooms; 31, of Fort Worth.
"""

HEADER = (
    "card ssn social security sin nhs tax ein vat passport driver license id number bsn pesel"
    " account routing sort code bic swift iban born dob phone call password token key secret zip"
    " postcode box ausweis nir aadhaar authorization bearer resident personnummer uid == azse "
)  # fmt: skip
HOSTILE = [
    "a", "1", "1 ", "44 ", "62 ", "4444 ", "-", "a@", "@", "a@b.", "a@b.cc ", "A1", "A-", "Aa Bb ",
    "Aa-", ".a", "::", "0:", "://", "http://a?", "http://u:p", "-----BEGIN PRIVATE KEY-----",
    "eyJaaaaaaaaa.aaaa", "password=", "password is a", "key a1", 'token "', "Via Roma ", "12 Main ",
    "1 A ", "born 1.1.", "+1 ", "(0", "01 ", "\u200b", "\uff14", "\u0436", "a b ", "a  b  ",
    "4 1 1 1 ", "GB29", "GB29 NWBK ", "sk-", "xoxb-1-", "1.1.1.1.", "passport A1A1A1A1",
    "driver license A1 B2 ", "tax id 1-", "\n", "   ", "x" * 63 + "@", "1 rue de la Aa-", "NY,",
    "123-45-", "AB12CD34AB12CD34 ", "key=a1b2c3d4e5f6g7h8i9j0",
]  # fmt: skip


def growth(text: Callable[[int], str], size: int, times: int) -> float:
    """How many times as long a text takes that is so many times as long.

    The least of three runs of each, in turn: others share the machine.
    """
    short, long = text(size), text(times * size)
    runs = [(cpu_seconds(short), cpu_seconds(long)) for _ in range(3)]
    return min(took for _, took in runs) / min(took for took, _ in runs)


def cpu_seconds(text: str) -> float:
    begun = time.process_time()
    find(text)
    return time.process_time() - begun


@pytest.mark.parametrize(
    ("entity", "marked"), [(entity, one) for entity, those in EXAMPLES.items() for one in those]
)
def test_value_is_found_whole_and_as_what_it_is(entity: EntityType, marked: str) -> None:
    text = marked.replace("«", "").replace("»", "")
    start, end = marked.index("«"), marked.index("»") - 1
    assert (text[start:end], entity) in [(text[s.start : s.end], s.entity) for s in find(text)]


def test_every_type_with_a_form_has_examples() -> None:
    assert set(EXAMPLES) == {
        "EMAIL", "PHONE", "ADDRESS", "IBAN", "CARD", "ACCOUNT", "NATIONAL_ID", "TAX_ID", "IP",
        "MAC", "BIRTH_DATE", "URL", "SECRET",
    }  # fmt: skip


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.full)])
def test_generated_values_are_covered_in_every_form(count: int) -> None:
    missed = [
        (sample.kind, sample.form, sample.text)
        for sample in samples(count, seed=20_261_125)
        if not sample.covered((span.start, span.end) for span in find(sample.text))
    ]
    assert missed == []


def test_ordinary_text_is_left_alone() -> None:
    assert [BENIGN[span.start : span.end] for span in find(BENIGN)] == []


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    def text(size: int) -> str:
        return HEADER + (unit * (size // len(unit) + 1))[:size]

    assert growth(text, 3_000, 8) < 24  # 8 if linear, 64 if quadratic.


@settings(max_examples=300)
@given(st.text(alphabet="aA1 .@-:/+('\n=_\"\uff11\u200b\u00e9ekypts", max_size=400))
def test_spans_are_in_order_inside_the_text_and_apart(text: str) -> None:
    ends = [0]
    for span in find(text):
        assert ends[-1] <= span.start < span.end <= len(text)
        assert 0 < span.score <= 1
        ends.append(span.end)


def test_finding_is_the_same_from_many_threads() -> None:
    text = BENIGN + " ".join(
        re.sub("[«»]", "", one) for those in EXAMPLES.values() for one in those
    )
    expected, seen = find(text), []
    threads = [threading.Thread(target=lambda: seen.append(find(text))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert [expected] * 4 == seen


def test_check_digit_raises_the_score_of_what_is_written_like_a_card() -> None:
    (right,), (wrong,) = find("4111 1111 1111 1111"), find("4111 1111 1111 1112")
    assert right.score > wrong.score > 0


def test_check_digit_raises_the_score_of_what_words_name() -> None:
    (right,), (wrong,) = find("routing number 021000021"), find("routing number 021000022")
    assert right.score > wrong.score > 0


def test_check_digits_raise_the_score_of_an_iban() -> None:
    (right,), (wrong,) = find("DE89370400440532013000"), find("DE88370400440532013000")
    assert right.score > wrong.score > 0


@pytest.mark.parametrize(
    "text",
    [
        "order 5551234567",
        "version 1.2.3.4",
        "127.0.0.1 and 255.255.255.0",
        "ssh://git@example.com/a.git",
        "https://example.com/a?page=2",
        "task-management-software-2024",
        "password: required",
        "password = sha256(text)",
        "--public-key FILE",
        "PASSWORD=$PASSWORD",
        "def sign(key: Ed25519PrivateKey) -> bytes",
        "The number 123456789 has nine digits.",
        "DE88370400440532",
        "2024-05-01 12:30",
        "on 05-10-2023 12:00",
    ],
)
def test_what_only_looks_alike_is_left_alone(text: str) -> None:
    assert find(text) == []
