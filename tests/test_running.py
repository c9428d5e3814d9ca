"""The fixtures stand on real parts: these tests fail when one of them is not what it says."""


from portal.sandbox.client import Control
from tests import cast


def test_the_cast_has_its_roles(alice, bob, carol, dave):
    from connections import access

    roles = [access.person(user).role for user in (alice, bob, carol, dave)]
    assert roles == ["IT admin", "Member", "Auditor", "Member"]


def test_make_connection_makes_one_that_is_active_and_owned_by_bob(db):
    made = cast.make_connection()
    assert made.owner.username == "bob"
    assert made.is_delegated
    assert made.status == "active"


def test_the_sandbox_answers_and_counts(sandbox: Control, settings):
    from connections.microsoft import clouds

    assert clouds.cloud("sandbox").login == settings.MICROSOFT_SANDBOX_URL
    assert sandbox.calls()["total"] == 0
    granted = sandbox.issue_grant(cast.CLIENT_ID, cast.ADA, ["offline_access", "Mail.Read"])
    assert granted["oid"] == cast.ADA_ID
