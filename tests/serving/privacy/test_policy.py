from typing import Any

import pytest

from serving.privacy.policy import PrivacyPolicy
from serving.privacy.refusals import Blocked


def test_policy_masks_everything_and_never_restores_secrets_by_default():
    policy = PrivacyPolicy()

    assert policy.action("PERSON") == "mask"
    assert policy.action("SECRET") == "never_restore"


def test_policy_changes_only_the_types_that_are_named():
    policy = PrivacyPolicy.of({"CARD": "block", "IBAN": "never_restore"})

    assert policy.action("CARD") == "block"
    assert policy.action("IBAN") == "never_restore"
    assert policy.action("SECRET") == "never_restore"
    assert policy.action("EMAIL") == "mask"


def test_policy_restores_secrets_where_the_tenant_says_so():
    assert PrivacyPolicy.of({"SECRET": "mask"}).action("SECRET") == "mask"


def test_policy_names_the_blocked_types_it_found():
    policy = PrivacyPolicy.of({"CARD": "block", "SECRET": "block"})

    with pytest.raises(Blocked, match="CARD, SECRET") as caught:
        policy.check(["PERSON", "SECRET", "CARD", "CARD"])

    assert caught.value.entities == ("CARD", "SECRET")


def test_policy_lets_through_what_it_does_not_block():
    PrivacyPolicy.of({"CARD": "block"}).check(["PERSON"])


@pytest.mark.parametrize("actions", [{"CRAD": "block"}, {"CARD": "hide"}])
def test_policy_refuses_what_it_does_not_know(actions: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"CRAD|hide"):
        PrivacyPolicy.of(actions)


def test_policy_version_changes_with_any_action_and_language():
    policies = [
        PrivacyPolicy(),
        PrivacyPolicy.of({"SECRET": "mask"}),
        PrivacyPolicy.of({"CARD": "block"}),
        PrivacyPolicy.of({"CARD": "never_restore"}),
        PrivacyPolicy.of({}, ["de"]),
        PrivacyPolicy.of({}, ["de", "zh"]),
    ]

    assert len({policy.version for policy in policies}) == len(policies)
    assert PrivacyPolicy().version == PrivacyPolicy.of({"CARD": "mask"}).version
    assert policies[-1].version == PrivacyPolicy.of({}, ["zh", "de"]).version
