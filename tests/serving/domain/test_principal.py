import pytest

from serving.domain.errors import NotPermitted
from serving.domain.principal import Principal, Role


def principal(role: Role = "inference", models: frozenset[str] | None = None) -> Principal:
    return Principal("acme", "id", "ci", role, models)


def test_principal_without_a_list_may_use_every_model() -> None:
    assert principal().may_use("anything")


def test_principal_with_a_list_may_use_what_is_on_it() -> None:
    listed = principal(models=frozenset({"m1"}))
    assert (listed.may_use("m1"), listed.may_use("m2"), listed.may_use("")) == (True, False, False)


def test_principal_with_an_empty_list_may_use_no_model() -> None:
    assert not principal(models=frozenset()).may_use("m1")


def test_admin_may_use_no_model() -> None:
    assert not principal("admin").may_use("m1")


def test_principal_goes_on_in_its_own_role() -> None:
    principal("admin").require("admin")
    principal("inference").require("inference")


@pytest.mark.parametrize(("role", "other"), [("admin", "inference"), ("inference", "admin")])
def test_principal_is_stopped_in_the_other_role(role: Role, other: Role) -> None:
    with pytest.raises(NotPermitted, match=other):
        principal(role).require(other)


def test_principal_is_local_only_unless_told_otherwise() -> None:
    assert principal().privacy == "local_only"
