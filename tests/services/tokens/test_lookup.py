"""The query behind a token call allows exactly what ``api_keys.authenticate`` and ``access`` allow, on random data.

The data includes people who have left, and roles and teams from Entra that were confirmed too long ago.
"""

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.http import Http404
from django.utils import timezone

from connections.access import permissions
from connections.api import authentication
from connections.errors import AmbiguousName, InvalidApiKey
from connections.models import ApiKey, Connection, ConnectionReference, ResourceToken, Share, Team, TeamMember, User
from connections.models.connections import RELATED
from connections.services.api_keys import api_keys
from connections.services.tokens import token_calls
from connections.services.tokens.fetch import Token
from connections.services.tokens.single_flight import TokenRequirement
from connections.services.tokens.token_calls import TokenCall, Wait
from tests import factories

pytestmark = pytest.mark.django_db
NAMES = ("Mail", "Invoices", "42", "Größe & Co")
REFERENCES = ("invoices", "Mail", "payroll", "support")  # one is a connection's name, too
ADDRESSES = ("10.1.2.3", "192.0.2.9", "2001:db8::5", "::ffff:10.1.2.3", None)


class World:
    """A few people with random values for everything that decides whether they get a token."""

    def __init__(self, chance: random.Random, now: datetime) -> None:
        self.chance, self.now = chance, now
        self.people = [factories.make_person(name) for name in ("alice", "bob", "carol", "dave")]
        self.people.append(factories.make_service_account())
        self.people.append(factories.make_person("root", is_superuser=True))
        self.teams = [Team.objects.create(name=f"Team {number}") for number in range(2)]
        self.teams.append(Team.objects.create(name="Follows Entra", entra_group="a-group"))
        for team in self.teams:
            for person in self.some(self.people):
                TeamMember.objects.create(team=team, user=person)
        app, dead_app, closed_app = (
            factories.make_app_registration(),
            factories.make_app_registration(name="Dead", client_id="1" * 36),
            factories.make_app_registration(name="Disabled in the tenant", client_id="2" * 36, audience="multi"),
        )
        closed_app.consents.update(rejected_at=now, rejected_cause="The app was disabled.")
        type(dead_app).objects.filter(pk=dead_app.pk).update(rejected_at=now, rejected_cause="Expired.")
        apps = (app, app, dead_app, closed_app)
        self.connections = [self.make_connection(person, *apps) for person in self.people for _ in range(2)]
        for _ in range(16):
            self.share()
        self.refer()
        self.keys = [self.make_key(person, number) for person in self.people for number in range(3)]
        self.age_and_leave()

    def age_and_leave(self) -> None:
        """Disable some people, let some leave, and let some have roles and groups of any age from Entra."""
        User.objects.filter(pk__in=[person.pk for person in self.some(self.people, 0.1)]).update(is_active=False)
        User.objects.filter(pk__in=[person.pk for person in self.some(self.people, 0.1)]).update(left_at=self.now)
        for person in self.some(self.people, 0.6):
            ages = [timedelta(hours=self.chance.choice([1, 23, 24, 25])) for _ in range(2)]
            read_at = dict(zip(("roles_read_at", "groups_read_at"), (self.now - age for age in ages), strict=True))
            User.objects.filter(pk=person.pk).update(**read_at)

    def some(self, things: list[Any], share: float = 0.5) -> list[Any]:
        return [thing for thing in things if self.chance.random() < share]

    def moment(self, *, none: float = 0.4) -> datetime | None:
        """Return None, or a time before, at or after now."""
        if self.chance.random() < none:
            return None
        return self.now + timedelta(seconds=self.chance.choice([-90000, -1, 0, 1, 90000]))

    def make_connection(self, owner: User, *apps: Any) -> Connection:
        taken = set(Connection.objects.filter(owner=owner).values_list("name", flat=True))
        name = self.chance.choice([name for name in NAMES if name not in taken])
        connection = factories.make_connection(
            owner=owner,
            name=name,
            access_token=f"token of {owner}'s {name}",
            app_registration=self.chance.choice(apps),
            status=self.chance.choice(["active", "active", "active", "disabled", "reconnect_needed"]),
            expires_at=self.chance.choice(
                [self.now + timedelta(hours=1), self.now + timedelta(hours=1), self.moment()]
            ),
        )
        if self.chance.random() < 0.7:
            self.add_resource(connection)
        return connection

    def add_resource(self, connection: Connection) -> None:
        has_problem = self.chance.random() < 0.4
        ResourceToken.objects.create(
            connection=connection,
            resource="exchange",
            access_token=self.chance.choice([None, f"mail token of {connection.pk}"]),
            expires_at=self.chance.choice([self.now + timedelta(hours=1), self.moment()]),
            problem_code="AADSTS65001" if has_problem else "",
            problem_at=self.now - timedelta(seconds=self.chance.choice([1, 59, 61])) if has_problem else None,
        )

    def share(self) -> None:
        person = self.chance.choice([None, *self.people])
        whom = {
            "connection": self.chance.choice(self.connections),
            "person": person,
            "team": None if person else self.chance.choice(self.teams),
        }
        # Only one share with the same recipient may be open at a time.
        is_ended = self.chance.random() < 0.2 or Share.objects.filter(**whom, ended_at=None).exists()
        Share.objects.create(
            **whom,
            level=self.chance.choice(["use", "manage"]),
            until=self.moment(),
            ended_at=self.now if is_ended else None,
            created_by=self.people[0],
        )

    def refer(self) -> None:
        """Make references that point at anything, also ones that are removed or have a connection's name."""
        for name in REFERENCES:
            self.reference(name, self.chance.choice(self.people))
        for person in self.some(self.people):
            self.reference("default:outlook", person, connector="outlook")

    def reference(self, name: str, owner: User, **more: Any) -> None:
        ConnectionReference.objects.create(
            name=name,
            owner=owner,
            connection=self.chance.choice([None, *self.connections, *self.connections]),
            removed_at=self.now if self.chance.random() < 0.2 else None,
            **more,
        )

    def make_key(self, owner: User, number: int) -> tuple[str, ApiKey]:
        scopes = self.chance.choice([["token:read"], ["token:read", "connections:read"], ["connections:read"]])
        networks = self.chance.choice([[], [], ["10.1.0.0/16"], ["2001:db8::/32", "192.0.2.9/32"]])
        key, text = factories.make_key(owner, name=f"Key {number}", scopes=scopes, networks=networks)
        only = self.some(self.connections, 0.3)
        values: dict[str, Any] = {
            "expires_at": self.moment(none=0.7),
            "revoked_at": self.now if self.chance.random() < 0.1 else None,
            "only_chosen": self.chance.random() < 0.4,
        }
        if self.chance.random() < 0.4:  # the key was rotated, and the text is the old one
            values |= {"previous_prefix": key.prefix, "previous_digest": key.digest, "previous_until": self.moment()}
            new, prefix = api_keys.generate_key()
            values |= {"prefix": prefix, "digest": api_keys.digest(new)}
            text = self.chance.choice([text, new])
        ApiKey.objects.filter(pk=key.pk).update(**values)
        key.connections.set(only)
        if self.chance.random() < 0.1:
            body = text[:-7] + ("A" if text[-7] != "A" else "B")
            text = body + api_keys._checksum(body)
        return text, key


def expected(
    text: str, ref: str, address: str | None, wanted: TokenRequirement, resource: str, now: datetime
) -> str | None:
    """Return the token the ORM-based checks allow, "wait" if a refresh is needed, or None if they reject the call."""
    try:
        key = api_keys.authenticate(text, address=address, now=now)
        if "token:read" not in key.scopes:
            return None
        connection = authentication.find_connection(key, ref, by_reference=True)
    except (InvalidApiKey, Http404, AmbiguousName):
        return None
    if not permissions.can_fetch_token(key.owner, connection):
        return None
    connection = Connection.objects.select_related(*RELATED).defer(None).get(pk=connection.pk)
    if connection.status != "active":
        return None
    source: Connection | ResourceToken | None = connection
    if resource not in ("", connection.resource):
        source = ResourceToken.objects.filter(connection=connection, resource=resource).defer(None).first()
        if source is None:
            return None
    assert source is not None
    token, expires_at = source.access_token, source.expires_at
    is_valid = token and expires_at and expires_at > now
    if token and expires_at and is_valid and wanted.accepts(token, expires_at, now):
        return str(token)
    refused_at = source.problem_at if isinstance(source, ResourceToken) and not is_valid else None
    if refused_at is not None and now - refused_at < timedelta(minutes=1):
        return None
    return None if connection.app_rejection is not None else "wait"


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5, 7, 9, 10])
def test_it_allows_what_access_allows(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)
    chance = random.Random(seed)
    world = World(chance, now)
    refs = [
        *NAMES,
        *REFERENCES,
        "default:outlook",
        "nothing",
        "0",
        *(str(connection.pk) for connection in world.connections),
    ]
    questions = [
        (
            text,
            ref,
            chance.choice(ADDRESSES),
            TokenRequirement(chance.choice([0, 300, 3600])),
            chance.choice(["", "", "graph", "exchange", "azure"]),
        )
        for text, _ in world.keys
        for ref in refs
    ]
    right = [expected(*call, now) for call in questions]
    calls = [
        TokenCall(text, int(ref) if ref.isdigit() else None, None if ref.isdigit() else ref, wanted, address, resource)
        for text, ref, address, wanted, resource in questions
    ]
    got: list[str | None] = []
    while len(got) < len(calls):  # some batches identify connections only by id
        batch = calls[len(got) : len(got) + chance.choice([1, 5, 50])]
        got += [describe(outcome) for outcome in token_calls.answer(batch)]
    wrong = [
        (call, outcome, wish) for call, outcome, wish in zip(questions, got, right, strict=True) if outcome != wish
    ]
    assert wrong == []
    assert any(right)


def describe(outcome: Any) -> str | None:
    return outcome.access_token if isinstance(outcome, Token) else "wait" if isinstance(outcome, Wait) else None
