import string

import pytest

from connections import audit_sentences
from connections.models.audit import AuditAction


def sentence(action: str, changes: dict[str, object] | None = None, **names: str) -> str:
    values = {"actor_name": "Bob Member <bob>", "target_name": "Invoices", "outcome": "done"} | names
    return audit_sentences.sentence(action, **values, changes=changes or {})


def test_every_action_has_a_sentence_and_no_other_has() -> None:
    assert set(audit_sentences.SENTENCES) == {str(action) for action in AuditAction}


@pytest.mark.parametrize("action", [str(action) for action in AuditAction])
def test_sentences_are_whole(action: str) -> None:
    for text in audit_sentences.SENTENCES[action]:
        assert not text.endswith(".")
        assert text[0] in string.ascii_lowercase


@pytest.mark.parametrize(
    ("action", "changes", "expected"),
    [
        (
            "connection.shared",
            {"with": "Una User <una>", "level": [None, "use"], "until": [None, "2027-03-01 00:00:00+00:00"]},
            "Bob Member shared Invoices with Una User until 28 February 2027",
        ),
        (
            "connection.shared",
            {"with": "team Finance", "level": [None, "use"], "until": [None, None]},
            "Bob Member shared Invoices with the team Finance",
        ),
        (
            "connection.handed_over",
            {"owner": ["Bob Member <bob>", "Dave Stranger <dave>"]},
            "Bob Member transferred ownership of Invoices to Dave Stranger",
        ),
        ("connection.tagged", {"tags": ["a", ""]}, "Bob Member removed the tags of Invoices"),
        ("connection.tagged", {"tags": ["", "a, b"]}, "Bob Member changed the tags of Invoices to a, b"),
        ("connection.handed_over", {}, "Bob Member transferred ownership of Invoices"),
        ("connection.long_gone", {}, "Bob Member: Connection: long gone, Invoices"),
        ("connection.shared", {}, "Bob Member: Connection: shared, Invoices"),
    ],
)
def test_values_are_put_into_words(action: str, changes: dict[str, object], expected: str) -> None:
    assert sentence(action, changes) == expected


def test_braces_in_names_mean_nothing() -> None:
    text = sentence("connection.shared", {"with": "{target} {x}", "until": [None, None]}, target_name="{with} {0}")
    assert text == "Bob Member shared {with} {0} with {target} {x}"


def test_the_portal_acts_in_its_own_name() -> None:
    assert sentence("incident.opened", actor_name="Portal") == "The portal opened the incident “Invoices”"


def test_an_attempt_without_success_is_no_deed() -> None:
    assert sentence("account.signed_in", outcome="failed") == "Bob Member: Account: signed in, Invoices"
    assert sentence("access.denied", outcome="denied") == "Bob Member was denied access to Invoices"
