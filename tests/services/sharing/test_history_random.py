"""Point-in-time answers against a replay by hand of thousands of random events.

``Organisation`` is the oracle: it keeps what is true in plain sets and dictionaries, and every moment's truth is found by
playing its notes from the beginning. It knows the services' names, and nothing of how the history is kept.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.access import querysets
from connections.models import AppRegistration, Connection, Share, Team, User
from connections.services.connections import connections
from connections.services.people import accounts, ownership_transfer
from connections.services.sharing import history_check, history_queries, teams
from connections.services.sharing import shares as sharing_service
from connections.services.sharing.history_queries import Window
from tests import factories

pytestmark = pytest.mark.django_db

TICK = timedelta(microseconds=1)
STRENGTH = ("use", "manage", "owner")
# (person, connection) → the ways by which: ("owner", None, "owner"), ("person", None, "use"), ("team", 7, "manage")
Ways = dict[tuple[int, int], set[tuple[str, int | None, str]]]
Note = tuple[datetime, Callable[["Truth"], None]]


@dataclass
class Truth:
    """What is true at one moment."""

    owners: dict[int, int] = field(default_factory=dict)
    # (connection, "person" or "team", id of the other side) → level, end
    shares: dict[tuple[int, str, int], tuple[str, datetime | None]] = field(default_factory=dict)
    members: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    disabled: set[int] = field(default_factory=set)

    def ways(self, at: datetime) -> Ways:
        found: Ways = defaultdict(set)
        for connection, owner in self.owners.items():
            found[owner, connection].add(("owner", None, "owner"))
        for (connection, kind, other), (level, until) in self.shares.items():
            if until is not None and until <= at:
                continue
            for person in [other] if kind == "person" else self.members[other]:
                found[person, connection].add((kind, other if kind == "team" else None, level))
        return {key: ways for key, ways in found.items() if key[0] not in self.disabled}

    def drop_shares(self, **which: Any) -> None:
        for key in list(self.shares):
            if all(
                dict(zip(("connection", "kind", "other"), key, strict=True))[name] == value
                for name, value in which.items()
            ):
                del self.shares[key]


class Organisation:
    """Does random things through the services and notes for itself what they mean."""

    def __init__(self, seed: int, start: datetime, app: AppRegistration, admin: User) -> None:
        self.random, self.ticks = random.Random(seed), seed % 2 == 1
        self.now = start
        self.app, self.admin = app, admin
        self.notes: list[Note] = []
        self.truth = Truth()
        self.ends: list[datetime] = []
        self.people: list[User] = []
        self.all_people: list[int] = []
        self.all_connections: list[int] = []
        self.count = 0
        for _ in range(6):
            self.hire()
        for _ in range(4):
            self.connect()
            self.make_team()

    def note(self, change: Callable[[Truth], None]) -> None:
        self.notes.append((self.now, change))
        change(self.truth)

    def step(self) -> None:
        """One random event; some at the same instant as the one before, some a microsecond or days later."""
        pauses = (timedelta(0), TICK, timedelta(seconds=7), timedelta(minutes=40), timedelta(hours=5))
        self.now += self.random.choices(pauses, (2, 1, 2, 6, 2))[0]
        actions = {
            self.share: 30, self.unshare: 12, self.join: 16, self.leave: 9, self.switch: 6, self.hand_over: 3, self.tick: 6,
            self.connect: 3, self.disconnect: 2, self.make_team: 2, self.drop_team: 1, self.hire: 2, self.fire: 1,
        }  # fmt: skip
        self.random.choices(list(actions), list(actions.values()))[0]()

    # --- Events ---

    def hire(self) -> None:
        self.count += 1
        made = User.objects.create_user(f"person{self.count}", first_name="Person", last_name=str(self.count))
        self.people.append(made)
        self.all_people.append(made.pk)

    def fire(self) -> None:
        free = [user for user in self.people if user.pk not in self.truth.owners.values()]
        if len(self.people) < 5 or not free:
            return
        user, pk = (found := self.random.choice(free)), found.pk
        self.people.remove(user)
        accounts.remove(User.objects.get(pk=pk), actor=self.admin, now=self.now)

        def change(truth: Truth) -> None:
            truth.drop_shares(kind="person", other=pk)
            for members in truth.members.values():
                members.discard(pk)
            truth.disabled.add(pk)

        self.note(change)

    def switch(self) -> None:
        """Disable an account, or enable it again."""
        pk = self.random.choice(self.people).pk
        off = pk not in self.truth.disabled
        switch_account(pk, active=not off, actor=self.admin, now=self.now)
        self.note(lambda truth: truth.disabled.add(pk) if off else truth.disabled.discard(pk))

    def connect(self) -> None:
        self.count += 1
        owner = self.random.choice(self.able())
        made = connections.start_delegated(
            self.app, name=f"Connection {self.count}", chosen=["mail.read"], actor=owner, now=self.now
        )
        self.all_connections.append(made.pk)
        self.note(lambda truth: truth.owners.update({made.pk: owner.pk}))

    def disconnect(self) -> None:
        pk = self.random.choice(list(self.truth.owners))
        if len(self.truth.owners) < 4:
            return
        connections.remove(Connection.objects.get(pk=pk), actor=self.admin, now=self.now)

        def change(truth: Truth) -> None:
            del truth.owners[pk]
            truth.drop_shares(connection=pk)

        self.note(change)

    def hand_over(self) -> None:
        pk = self.random.choice(list(self.truth.owners))
        new = self.random.choice(self.able())
        if new.pk == self.truth.owners[pk]:
            return
        ownership_transfer.transfer(Connection.objects.get(pk=pk), new, keep_grant=True, actor=self.admin, now=self.now)

        def change(truth: Truth) -> None:
            truth.owners[pk] = new.pk
            truth.drop_shares(connection=pk, kind="person", other=new.pk)

        self.note(change)

    def share(self) -> None:
        pk = self.random.choice(list(self.truth.owners))
        level = self.random.choice(STRENGTH[:2])
        until = None
        if self.random.random() < 0.5:
            until = self.now + self.random.choice((TICK, timedelta(seconds=7), timedelta(hours=9), timedelta(days=4)))
            self.ends.append(until)
        whom: dict[str, Any]
        if self.truth.members and self.random.random() < 0.5:
            key = (pk, "team", self.random.choice(list(self.truth.members)))
            whom = {"team": Team.objects.get(pk=key[2])}
        else:
            user = self.random.choice(self.able())
            if user.pk == self.truth.owners[pk]:
                return
            key, whom = (pk, "person", user.pk), {"person": user}
        connection = Connection.objects.get(pk=pk)
        sharing_service.share(connection, **whom, level=level, until=until, actor=self.admin, now=self.now)
        self.note(lambda truth: truth.shares.update({key: (level, until)}))

    def unshare(self) -> None:
        found = self.random.choice(list(Share.objects.filter(ended_at=None).order_by("pk")) or [None])
        if found is None:
            return
        key = (found.connection_id, "team" if found.team_id else "person", found.team_id or found.person_id)
        sharing_service.end_share(found, actor=self.admin, now=self.now)
        self.note(lambda truth: truth.shares.pop(key, None))  # type: ignore[call-overload]

    def tick(self) -> None:
        """What Celery does: it changes nothing about who may use what, so that it may as well be down."""
        if self.ticks:
            sharing_service.end_expired(now=self.now)

    def make_team(self) -> None:
        self.count += 1
        made = teams.add(f"Team {self.count}", actor=self.admin)
        self.note(lambda truth: truth.members.setdefault(made.pk, set()))

    def drop_team(self) -> None:
        if len(self.truth.members) < 3:
            return
        pk = self.random.choice(list(self.truth.members))
        teams.remove(Team.objects.get(pk=pk), actor=self.admin, now=self.now)

        def change(truth: Truth) -> None:
            del truth.members[pk]
            truth.drop_shares(kind="team", other=pk)

        self.note(change)

    def join(self) -> None:
        pk, user = self.random.choice(list(self.truth.members)), self.random.choice(self.people)
        teams.add_member(Team.objects.get(pk=pk), user, actor=self.admin, now=self.now)
        self.note(lambda truth: truth.members[pk].add(user.pk))

    def leave(self) -> None:
        pk, user = self.random.choice(list(self.truth.members)), self.random.choice(self.people)
        teams.remove_member(Team.objects.get(pk=pk), user, actor=self.admin, now=self.now)
        self.note(lambda truth: truth.members[pk].discard(user.pk))

    def able(self) -> list[User]:
        return [user for user in self.people if user.pk not in self.truth.disabled] or [self.enabled_again()]

    def enabled_again(self) -> User:
        user = self.people[0]
        switch_account(user.pk, active=True, actor=self.admin, now=self.now)
        self.note(lambda truth: truth.disabled.discard(user.pk))
        return user

    # --- The truth of the past ---

    def truth_at(self, at: datetime) -> Ways:
        return next(self.truths([at]))

    def truths(self, moments: list[datetime]) -> Iterator[Ways]:
        """The truth at each of these moments, which ascend: one after the other from the first note."""
        truth, position = Truth(), 0
        for at in moments:
            while position < len(self.notes) and self.notes[position][0] <= at:
                self.notes[position][1](truth)
                position += 1
            yield truth.ways(at)


def switch_account(pk: int, *, active: bool, actor: User, now: datetime) -> None:
    """Disable or enable an account."""
    change = accounts.enable_person if active else accounts.disable_person
    change(User.objects.get(pk=pk), actor=actor, now=now)


@pytest.mark.parametrize(("seed", "events"), [(1, 2000), (2, 200), (3, 200), (4, 200)])
def test_answers_about_the_past_are_those_of_a_replay_by_hand(alice: User, seed: int, events: int) -> None:
    start = timezone.now() - timedelta(days=200)
    here = Organisation(seed, start, factories.make_app_registration(), alice)
    for _ in range(events):
        here.step()
    assert here.now < timezone.now()
    assert history_check.differences(since=start, slack=timedelta(0)) == []

    moments = interesting_moments(here, start)
    for at, truth in zip(moments, here.truths(moments), strict=True):
        connection, person = here.random.choice(here.all_connections), here.random.choice(here.all_people)
        assert who(connection, Window.moment(at)) == {key: ways for key, ways in truth.items() if key[1] == connection}
        assert what(person, Window.moment(at)) == {key: ways for key, ways in truth.items() if key[0] == person}

    for _ in range(20):
        day = (start + here.random.random() * (here.now - start)).date()
        connection, person = here.random.choice(here.all_connections), here.random.choice(here.all_people)
        spans = by_hand(here, datetime.combine(day, time.min, UTC))
        window = Window.day(day, now=timezone.now())
        by_connection = {(one.person_id, connection): one for one in history_queries.who_could_use(connection, window)}
        by_person = {(person, one.connection_id): one for one in history_queries.what_could_be_used(person, window)}
        for found, mine in (
            (by_connection, {key: value for key, value in spans.items() if key[1] == connection}),
            (by_person, {key: value for key, value in spans.items() if key[0] == person}),
        ):
            assert {key: one.stretches for key, one in found.items()} == {
                key: spans for key, (spans, _) in mine.items()
            }
            assert {key: one.level for key, one in found.items()} == {key: level for key, (_, level) in mine.items()}

    # What the past's answers say of just now is what the policy decides.
    for person in User.objects.filter(username__startswith="person"):
        usable = querysets.usable_connections(person) if person.is_active else Connection.objects.none()
        now = Window.moment(timezone.now())
        assert {one.connection_id for one in history_queries.what_could_be_used(person.pk, now)} == {
            one.pk for one in usable
        }


def interesting_moments(here: Organisation, start: datetime) -> list[datetime]:
    """Random ones, and those at, just before and just after something happens or a share's date is over."""
    count = len(here.notes) // 40 + 10
    edges = here.random.sample([at for at, _ in here.notes], count) + here.random.sample(here.ends, count // 2)
    near = [at + by for at in edges for by in (-TICK, timedelta(0), TICK)]
    anywhere = [start + here.random.random() * (here.now - start) for _ in range(count)]
    return sorted(near + anywhere)


def who(connection: int, window: Window) -> Ways:
    return as_ways(history_queries.who_could_use(connection, window))


def what(person: int, window: Window) -> Ways:
    return as_ways(history_queries.what_could_be_used(person, window))


def as_ways(accesses: list[history_queries.Access]) -> Ways:
    for access in accesses:
        assert access.level == max((way.level for way in access.ways), key=STRENGTH.index)
    return {
        (access.person_id, access.connection_id): {
            (way.grant.kind, way.grant.team_id, way.level) for way in access.ways
        }
        for access in accesses
    }


def by_hand(here: Organisation, midnight: datetime) -> dict[tuple[int, int], tuple[tuple[Any, ...], str]]:
    """For each person and connection: when in that day, and the strongest level; looked at from change to change."""
    end = midnight + timedelta(days=1)
    changes = {at for at, _ in here.notes} | set(here.ends)
    moments = [midnight, *sorted(at for at in changes if midnight < at < end)]
    spans: dict[tuple[int, int], list[tuple[datetime, datetime]]] = defaultdict(list)
    levels: dict[tuple[int, int], set[str]] = defaultdict(set)
    for at, until, truth in zip(moments, [*moments[1:], end], here.truths(moments), strict=True):
        for key, ways in truth.items():
            levels[key] |= {level for _, _, level in ways}
            if spans[key] and spans[key][-1][1] == at:
                spans[key][-1] = (spans[key][-1][0], until)
            else:
                spans[key].append((at, until))
    return {key: (tuple(found), max(levels[key], key=STRENGTH.index)) for key, found in spans.items()}
