"""Whatever is offered to a reader of a connection works when it is pressed: neither the policy nor its state refuses."""

import itertools
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who
from connections.models import Connection, Incident, Policy, Share, Team, TeamMember, User
from connections.services.connections import connections, sign_in, sign_in_links
from connections.services.incidents import incidents
from connections.services.people import ownership_transfer
from connections.services.policy import approvals, next_steps
from connections.services.policy import rules as policy_rules
from connections.services.policy.next_steps import Step
from connections.services.policy.rules import Effect, Rules
from connections.services.tokens import apply_results
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import Program
from tests.views.pages import SignIn

NOW = timezone.now()
Status = Connection.Status
READERS = ("bob", "max", "una", "tina", "alice", "carol")
CHANGERS = ("bob", "max", "alice")
POLICIES = {
    "none": Rules(),
    "forbidden": Rules(capabilities={"mail.read": Effect.FORBIDDEN}),
    "kind": Rules(authentication_types=()),
    "approval": Rules(capabilities={"mail.read": Effect.APPROVAL}),
    "accounts": Rules(other_tenants=False),
    "shares": Rules(share_with_people=False, share_app_only=False),
}
STATES: dict[str, dict[str, Any]] = {
    "pending": {"status": Status.PENDING, "connected_at": None, "refresh_token": None, "access_token": None},
    "active": {"status": Status.ACTIVE},
    "reconnect": {"status": Status.RECONNECT_NEEDED, "status_code": "AADSTS50173"},
    "consent": {"status": Status.CONSENT_NEEDED, "status_code": "AADSTS65001"},
    "blocked": {"status": Status.BLOCKED, "status_code": "AADSTS53003"},
    "disabled": {"status": Status.DISABLED, "status_code": "disabled"},
    "disabled_by_admin": {"status": Status.DISABLED, "status_code": "disabled", "disabled_by_admin": True},
    "disabled_by_policy": {"status": Status.DISABLED, "status_code": "policy"},
    "handed_over": {"status": Status.RECONNECT_NEEDED, "status_code": "handed_over"},
}
FORM = re.compile(r'<form\b[^>]*method="post"[^>]*action="([^"]+)"|formaction="([^"]+)"')
# The buttons that the policy decides about; the others are pressed once, without a policy.
ASKS_POLICY = re.compile(r"/(sign-in|sign-in-link|enable|connect|approval|shares/add)/$")
LINK = re.compile(r'href="(/connections/[0-9]+/[^"]+)"')


def set_policy(rules: Rules) -> None:
    Policy.objects.all().delete()
    Policy.objects.create(rules=policy_rules.to_dict(rules))


@pytest.fixture
def readers(alice: User, bob: User, carol: User) -> dict[str, User]:
    return {"alice": alice, "bob": bob, "carol": carol} | {
        name: factories.make_person(name) for name in ("max", "una", "tina")
    }


def make(readers: dict[str, User], kind: str, state: str) -> Connection:
    maker = factories.make_connection if kind == "delegated" else factories.make_app_only_connection
    values = {name: value for name, value in STATES[state].items() if kind == "delegated" or name != "refresh_token"}
    connection = maker(owner=readers["bob"], account_tid="f" * 36 if kind == "delegated" else "", **values)
    bob = readers["bob"]
    Share.objects.create(connection=connection, person=readers["una"], created_by=bob)
    Share.objects.create(connection=connection, person=readers["max"], level="manage", created_by=bob)
    team = Team.objects.create(name="Accounting")
    TeamMember.objects.create(team=team, user=readers["tina"])
    Share.objects.create(connection=connection, team=team, created_by=bob)
    return connection


def offered(page: str) -> tuple[set[str], set[str]]:
    """Return the forms and links about connections on a page."""
    forms = {first or second for first, second in FORM.findall(page)}
    return {path for path in forms if "/connections/" in path or "/approvals/" in path}, set(LINK.findall(page))


def some_policies(number: int) -> list[str]:
    """No policy and two others, so that each of them meets each kind and most states."""
    others = [name for name in POLICIES if name != "none"]
    return ["none", *(others[(number + step) % len(others)] for step in (0, 2))]


@pytest.mark.parametrize(
    ("kind", "state", "policies"),
    [
        (kind, state, some_policies(number))
        for number, (kind, state) in enumerate(itertools.product(("delegated", "app_only"), STATES))
    ],
)
def test_no_offered_button_is_refused(
    readers: dict[str, User], signed_in: SignIn, sandbox: Control, kind: str, state: str, policies: list[str]
) -> None:
    connection = make(readers, kind, state)
    path = f"/connections/{connection.pk}/"
    for policy in policies:
        set_policy(POLICIES[policy])
        for name in READERS if policy == "none" else CHANGERS:
            client = signed_in(readers[name])
            pages = [client.get(path).content.decode()]
            if name == "bob":
                pages.append(client.get("/").content.decode())
            forms, links = set[str](), set[str]()
            for page in pages:
                more_forms, more_links = offered(page)
                forms |= more_forms
                links |= more_links
            for link in sorted(links if policy == "none" else filter(ASKS_POLICY.search, links)):
                assert client.get(link).status_code == 200, (policy, name, link)
            for form in sorted(forms if policy == "none" else filter(ASKS_POLICY.search, forms)):
                press(client, form, (policy, name, form))


def press(client: Client, path: str, about: tuple[str, ...]) -> None:
    with transaction.atomic():
        response = client.post(path, {"seen": "1"})
        # A form that is not filled in says so; Microsoft's own refusals are not the portal's.
        assert response.status_code in (200, 302, 422), (about, response.status_code, response.content.decode()[-2000:])
        transaction.set_rollback(True)


@pytest.mark.parametrize(
    ("kind", "state", "policy"), list(itertools.product(("delegated", "app_only"), STATES, POLICIES))
)
def test_no_possible_step_is_refused_by_the_services(
    readers: dict[str, User], kind: str, state: str, policy: str
) -> None:
    pk = make(readers, kind, state).pk
    set_policy(POLICIES[policy])
    calls: dict[Step, Callable[..., Any]] = {
        Step.SIGN_IN: sign_in.begin,
        Step.SEND_SIGN_IN_LINK: sign_in_links.create,
        Step.ENABLE: connections.enable,
        Step.DISABLE: connections.disable,
        Step.ASK_APPROVAL: partial(approvals.request_missing, reason=""),
    }
    for name in ("bob", "max", "una", "alice", "carol"):
        actor = readers[name]
        for step in next_steps.possible_steps(actor, Connection.objects.get(pk=pk), now=NOW) & calls.keys():
            with transaction.atomic():
                connection = Connection.objects.select_related("app_registration__tenant", "owner").get(pk=pk)
                calls[step](connection, actor=actor, now=NOW)  # raises nothing
                transaction.set_rollback(True)


def test_a_new_owner_is_not_told_to_sign_in_if_the_policy_forbids_it(
    alice: User, bob: User, dave: User, signed_in: SignIn, connection: Connection
) -> None:
    set_policy(POLICIES["forbidden"])
    ownership_transfer.transfer(connection, dave, keep_grant=False, actor=bob, now=NOW)
    incident = Incident.objects.get()
    assert "Change its permissions before you sign in" in incident.action
    assert incident.title == "Invoices has a new owner"
    client = signed_in(dave)
    for path in ("/", f"/connections/{connection.pk}/", f"/incidents/{incident.pk}/"):
        page = client.get(path).content.decode()
        assert "/sign-in/" not in page, path
        assert "Change its permissions before you sign in" in page, path
    assert "Change its permissions" in Program(dave).get(f"connections/{connection.pk}").json()["action"]


def test_a_disabled_connection_says_what_must_happen_before_it_is_enabled(
    bob: User, signed_in: SignIn, connection: Connection
) -> None:
    connections.disable(connection, actor=bob, now=NOW)
    client = signed_in(bob)
    assert "Enable the connection to use it again." in client.get(f"/connections/{connection.pk}/").content.decode()
    set_policy(POLICIES["approval"])
    page = client.get(f"/connections/{connection.pk}/").content.decode()
    assert "Enable the connection to use it again." not in page
    assert "Request approval before it is enabled." in page
    answer = Program(bob).get(f"connections/{connection.pk}").json()
    assert "Request approval before it is enabled." in answer["action"]
    assert answer["who"] == "owner"


def test_an_alert_about_a_lost_sign_in_names_the_step_that_is_possible(alice: User, connection: Connection) -> None:
    set_policy(POLICIES["kind"])
    verdict = Verdict(Kind.REAUTH, "AADSTS50173", "The grant was revoked.", "Sign in again.", Who.OWNER)
    apply_results.flag(connection.pk, verdict, now=NOW, version=connection.token_version)
    incident = Incident.objects.get()
    assert "An IT admin needs to change the policy before you sign in." in incident.action
    assert (incident.who, incident.assignee) == ("it_admin", None)
    incidents.connections_recovered([connection.pk], now=NOW)
