import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from serving.access.errors import SecretUnsafe
from serving.access.key_text import KeyMint, public_id

MINT = KeyMint(SecretStr("a" * 32))
KEY = MINT.new("inference").get_secret_value()


@pytest.mark.parametrize(("role", "prefix"), [("inference", "sk-rf"), ("admin", "sk-rfadmin")])
def test_key_has_the_documented_form(role: str, prefix: str) -> None:
    key = MINT.new(role).get_secret_value()  # type: ignore[arg-type]  # Parametrised.
    assert re.fullmatch(rf"{prefix}-[0-9A-Za-z]{{12}}-[0-9A-Za-z]{{43}}", key)


def test_keys_never_repeat() -> None:
    assert len({MINT.new("inference").get_secret_value() for _ in range(1000)}) == 1000


def test_mint_knows_its_own_keys() -> None:
    assert MINT.issued(KEY)


@pytest.mark.parametrize("position", range(len(KEY)))
def test_mint_does_not_know_a_key_with_one_character_changed(position: int) -> None:
    changed = "0" if KEY[position] != "0" else "1"
    assert not MINT.issued(KEY[:position] + changed + KEY[position + 1 :])


def test_mint_does_not_know_keys_of_another_secret() -> None:
    assert not KeyMint(SecretStr("b" * 32)).issued(KEY)


def test_mint_does_not_take_an_inference_key_for_an_admin_key() -> None:
    assert not MINT.issued(KEY.replace("sk-rf-", "sk-rfadmin-"))


def test_digest_depends_on_the_server_secret() -> None:
    assert MINT.digest(KEY) != KeyMint(SecretStr("b" * 32)).digest(KEY)


NEARLY_KEYS = st.from_regex(r"(sk-rf(admin)?-)?\w{11,13}-\w{42,44}\n?", fullmatch=True)


@settings(deadline=None)
@given(st.text() | NEARLY_KEYS)
def test_public_id_is_the_part_between_prefix_and_secret(text: str) -> None:
    found = public_id(text)
    parts = text.split("-")
    sizes = [len(part) for part in parts[2:]] == [12, 43]
    prefix = "-".join(parts[:2]) in {"sk-rf", "sk-rfadmin"}
    letters = text.isascii() and text.replace("-", "").isalnum()
    assert found == (parts[2] if sizes and prefix and letters else None)


@pytest.mark.parametrize(
    "wrong",
    [KEY + "\n", KEY + "0", KEY[:-1], "x" + KEY, KEY.upper(), ""],
    ids=["line end", "longer", "shorter", "prefix", "upper case", "empty"],
)
def test_public_id_is_only_read_from_a_whole_key(wrong: str) -> None:
    assert public_id(wrong) is None


def test_short_server_secret_is_refused() -> None:
    with pytest.raises(SecretUnsafe, match="31"):
        KeyMint(SecretStr("a" * 31))


def test_mint_does_not_show_its_secret() -> None:
    assert "aaaa" not in repr(MINT)
