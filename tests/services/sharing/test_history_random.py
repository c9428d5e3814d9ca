"""Answers about the past, compared with an independent simulation of thousands of random events.

``Organisation`` is the oracle: it keeps the truth in plain sets and dictionaries, and replays its notes to find the truth
at any moment. It calls the services but knows nothing about how the history is stored.
"""

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
from connections.services.policy import four_eyes
from connections.services.sharing import history_check, history_queries, teams
from connections.services.sharing import shares as sharing_service
from connections.services.sharing.history_queries import Window
from tests import factories

TICK = timedelta(microseconds=1)
STRENGTH = ("use", "manage", "owner")
# (person, connection) → paths such as ("owner", None, "owner"), ("person", None, "use"), ("team", 7, "manage")
Paths = dict[tuple[int, int], set[tuple[str, int | None, str]]]
Note = tuple[datetime, Callable[["Truth"], object]]


@dataclass
class Truth:
    """Who owns, shares and may use what at one moment."""

    owners: dict[int, int] = field(default_factory=dict)
    # (connection, "person" or "team", id of the recipient) → level, end
    shares: dict[tuple[int, str, int], tuple[str, datetime | None]] = field(default_factory=dict)
    members: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    disabled: set[int] = field(default_factory=set)

    def paths(self, at: datetime) -> Paths:
        result: Paths = defaultdict(set)
        for connection, owner in self.owners.items():
            result[owner, connection].add(("owner", None, "owner"))
        for (connection, kind, other), (level, until) in self.shares.items():
            if until is not None and until <= at:
                continue
            for person in [other] if kind == "person" else self.members[other]:
                result[person, connection].add((kind, other if kind == "team" else None, level))
        return {key: paths for key, paths in result.items() if key[0] not in self.disabled}

    def drop_shares(self, **filters: Any) -> None:
        for key in list(self.shares):
            if filters.items() <= dict(zip(("connection", "kind", "other"), key, strict=True)).items():
                del self.shares[key]


class Organisation:
    """Does random things through the services, and keeps notes of their effects."""

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

    def note(self, change: Callable[[Truth], object]) -> None:
        self.notes.append((self.now, change))
        change(self.truth)

    def step(self) -> None:
        """Do one random thing, at the same instant as the previous one or up to five hours later."""
        pauses = (timedelta(0), TICK, timedelta(seconds=7), timedelta(minutes=40), timedelta(hours=5))
        self.now += self.random.choices(pauses, (2, 1, 2, 6, 2))[0]
        actions = {
            self.share: 30, self.unshare: 12, self.join: 16, self.leave: 9, self.switch: 6, self.hand_over: 3, self.tick: 6,
            self.connect: 3, self.disconnect: 2, self.make_team: 2, self.drop_team: 1, self.hire: 2, self.fire: 1,
        }  # fmt: skip
        self.random.choices(list(actions), list(actions.values()))[0]()

    def hire(self) -> None:
        self.count += 1
        user = User.objects.create_user(f"person{self.count}", first_name="Person", last_name=str(self.count))
        self.people.append(user)
        self.all_people.append(user.pk)

    def fire(self) -> None:
        free = [user for user in self.people if user.pk not in self.truth.owners.values()]
        if len(self.people) < 5 or not free:
            return
        user = self.random.choice(free)
        pk = user.pk
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
        connection = connections.start_delegated(
            self.app, name=f"Connection {self.count}", chosen=["mail.read"], actor=owner, now=self.now
        )
        self.all_connections.append(connection.pk)
        self.note(lambda truth: truth.owners.update({connection.pk: owner.pk}))

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
        recipient: dict[str, Any]
        if self.truth.members and self.random.random() < 0.5:
            key = (pk, "team", self.random.choice(list(self.truth.members)))
            recipient = {"team": Team.objects.get(pk=key[2])}
        else:
            user = self.random.choice(self.able())
            if user.pk == self.truth.owners[pk]:
                return
            key, recipient = (pk, "person", user.pk), {"person": user}
        connection = Connection.objects.get(pk=pk)
        sharing_service.share(connection, **recipient, level=level, until=until, actor=self.admin, now=self.now)
        self.note(lambda truth: truth.shares.update({key: (level, until)}))

    def unshare(self) -> None:
        share = self.random.choice(list(Share.objects.filter(ended_at=None).order_by("pk")) or [None])
        if share is None:
            return
        recipient = share.team_id or share.person_id
        assert recipient is not None
        key = (share.connection_id, "team" if share.team_id else "person", recipient)
        sharing_service.end_share(share, actor=self.admin, now=self.now)
        self.note(lambda truth: truth.shares.pop(key, None))

    def tick(self) -> None:
        """Run the periodic task if the seed is odd. It must not change who may use what."""
        if self.ticks:
            sharing_service.end_expired(now=self.now)

    def make_team(self) -> None:
        self.count += 1
        team = teams.add(f"Team {self.count}", actor=self.admin)
        self.note(lambda truth: truth.members.setdefault(team.pk, set()))

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

    def truths(self, moments: list[datetime]) -> Iterator[Paths]:
        """Yield the truth at each of these moments, which must be in ascending order."""
        truth, position = Truth(), 0
        for at in moments:
            while position < len(self.notes) and self.notes[position][0] <= at:
                self.notes[position][1](truth)
                position += 1
            yield truth.paths(at)


def switch_account(pk: int, *, active: bool, actor: User, now: datetime) -> None:
    change = accounts.enable_person if active else accounts.disable_person
    change(User.objects.get(pk=pk), actor=actor, now=now)


@pytest.mark.parametrize(
    ("seed", "events"), [pytest.param(1, 2000, marks=pytest.mark.slow), (2, 200), (3, 200), (4, 200)]
)
def test_answers_about_the_past_agree_with_the_simulation(
    alice: User, seed: int, events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The admin may do everything alone here: who must agree to a change makes no difference to the history.
    monkeypatch.setattr(four_eyes, "require", lambda change, **options: None)
    start = timezone.now() - timedelta(days=200)
    here = Organisation(seed, start, factories.make_app_registration(), alice)
    for _ in range(events):
        here.step()
    assert here.now < timezone.now()
    assert history_check.differences() == []

    moments = interesting_moments(here, start)
    for at, truth in zip(moments, here.truths(moments), strict=True):
        connection, person = here.random.choice(here.all_connections), here.random.choice(here.all_people)
        assert who(connection, Window.moment(at)) == {
            key: paths for key, paths in truth.items() if key[1] == connection
        }
        assert what(person, Window.moment(at)) == {key: paths for key, paths in truth.items() if key[0] == person}

    for _ in range(20):
        day = (start + here.random.random() * (here.now - start)).date()
        connection, person = here.random.choice(here.all_connections), here.random.choice(here.all_people)
        spans = simulated_day(here, datetime.combine(day, time.min, UTC))
        window = Window.day(day, now=timezone.now())
        by_connection = {
            (access.person_id, connection): access for access in history_queries.who_could_use(connection, window)
        }
        by_person = {
            (person, access.connection_id): access for access in history_queries.what_could_be_used(person, window)
        }
        for accesses, expected in (
            (by_connection, {key: value for key, value in spans.items() if key[1] == connection}),
            (by_person, {key: value for key, value in spans.items() if key[0] == person}),
        ):
            assert {key: access.stretches for key, access in accesses.items()} == {
                key: spans for key, (spans, _) in expected.items()
            }
            assert {key: access.level for key, access in accesses.items()} == {
                key: level for key, (_, level) in expected.items()
            }

    # Answers about the present agree with the access rules.
    for user in User.objects.filter(username__startswith="person"):
        usable = querysets.usable_connections(user) if user.is_active else Connection.objects.none()
        now = Window.moment(timezone.now())
        assert {access.connection_id for access in history_queries.what_could_be_used(user.pk, now)} == {
            connection.pk for connection in usable
        }


def interesting_moments(here: Organisation, start: datetime) -> list[datetime]:
    """Return random moments, and moments at, just before and just after an event or the end of a share."""
    count = len(here.notes) // 40 + 10
    edges = here.random.sample([at for at, _ in here.notes], count) + here.random.sample(here.ends, count // 2)
    near = [at + by for at in edges for by in (-TICK, timedelta(0), TICK)]
    anywhere = [start + here.random.random() * (here.now - start) for _ in range(count)]
    return sorted(near + anywhere)


def who(connection: int, window: Window) -> Paths:
    return as_paths(history_queries.who_could_use(connection, window))


def what(person: int, window: Window) -> Paths:
    return as_paths(history_queries.what_could_be_used(person, window))


def as_paths(accesses: list[history_queries.Access]) -> Paths:
    for access in accesses:
        assert access.level == max((path.level for path in access.paths), key=STRENGTH.index)
    return {
        (access.person_id, access.connection_id): {
            (path.grant.kind, path.grant.team_id, path.level) for path in access.paths
        }
        for access in accesses
    }


def simulated_day(here: Organisation, midnight: datetime) -> dict[tuple[int, int], tuple[tuple[Any, ...], str]]:
    """Return for each person and connection the intervals with access on that day, and the highest level."""
    end = midnight + timedelta(days=1)
    changes = {at for at, _ in here.notes} | set(here.ends)
    moments = [midnight, *sorted(at for at in changes if midnight < at < end)]
    spans: dict[tuple[int, int], list[tuple[datetime, datetime]]] = defaultdict(list)
    levels: dict[tuple[int, int], set[str]] = defaultdict(set)
    for at, until, truth in zip(moments, [*moments[1:], end], here.truths(moments), strict=True):
        for key, paths in truth.items():
            levels[key] |= {level for _, _, level in paths}
            if spans[key] and spans[key][-1][1] == at:
                spans[key][-1] = (spans[key][-1][0], until)
            else:
                spans[key].append((at, until))
    return {key: (tuple(intervals), max(levels[key], key=STRENGTH.index)) for key, intervals in spans.items()}
