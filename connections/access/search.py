"""Search for people, service accounts and teams by user name, email address or name."""

from collections.abc import Sequence

from django.db.models import Q, QuerySet

from connections.models import Team, User

MOST = 20  # suggestions at a time
LEAST = 2  # characters typed before anything is suggested
MOST_WORDS = 5  # words that are searched for; further words are ignored
SHORT = 3  # characters from which a text is found anywhere; a shorter text is found only at the beginning
_PERSON = ("username", "email", "first_name", "last_name")


def contains(columns: Sequence[str], text: str) -> Q:
    """Match rows with the text in one of the columns.

    A text shorter than SHORT matches only the beginning of a column, because trigram indexes in PostgreSQL don't
    support it.
    """
    lookup = "icontains" if len(text) >= SHORT else "istartswith"
    condition = Q()
    for column in columns:
        condition |= Q(**{f"{column}__{lookup}": text})
    return condition


def named_exactly(text: str, people: QuerySet[User], teams: QuerySet[Team]) -> list[User | Team]:
    """Return the people and teams whose name is exactly this text, ignoring case; at most MOST of each."""
    first, _, last = text.partition(" ")
    called = Q(first_name__iexact=first, last_name__iexact=last.strip()) | Q(first_name__iexact=text, last_name="")
    matches = people.filter(Q(username__iexact=text) | Q(email__iexact=text) | called)
    return [*teams.filter(name__iexact=text)[:MOST], *matches[:MOST]]


def suggest(text: str, people: QuerySet[User], teams: QuerySet[Team]) -> list[User | Team]:
    """Return up to MOST people and teams that match each of the first MOST_WORDS words. Teams come first."""
    words = text.split()[:MOST_WORDS]
    if len(text) < LEAST or not words:
        return []
    for word in words:
        people, teams = people.filter(contains(_PERSON, word)), teams.filter(contains(("name",), word))
    results: list[User | Team] = [*teams[: MOST // 2]]
    return [*results, *people[: MOST - len(results)]]
