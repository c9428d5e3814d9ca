"""Mail addresses and domains: one parser for all doorways, and IDNA 2008 for every domain."""

import pytest

from connections import domain_names, mail_addresses, validators
from connections.errors import InvalidInput
from connections.forms.connections import AddressesField
from connections.models import SharedMailbox, User
from connections.outbound import safe_http
from connections.services.mailboxes import mailboxes
from tests import factories
from tests.api.api_client import Program

SHARP_S, SIGMA = "straße.de", "οδος.gr"


@pytest.mark.parametrize(
    ("domain", "ascii_domain"),
    [
        (SHARP_S, "xn--strae-oqa.de"),
        (SIGMA, "xn--pxavbm.gr"),  # ends in ς
        ("ΟΔΟΣ.gr", "xn--pxavbq.gr"),  # a capital letter is always the other sigma
        ("faß.example", "xn--fa-hia.example"),
        ("Bücher.Example", "xn--bcher-kva.example"),
        ("Contoso.COM", "contoso.com"),
        ("a_b.contoso.com", "a_b.contoso.com"),
        ("xn--strae-oqa.de", "xn--strae-oqa.de"),
        ("a。bücher.example", "a.xn--bcher-kva.example"),
    ],
)
def test_a_domain_stays_the_same_domain(domain: str, ascii_domain: str) -> None:
    assert domain_names.to_ascii(domain) == ascii_domain


@pytest.mark.parametrize("domain", ["a\u200b–b.example", "\u0627a.example", "-ü.example", "ü" * 70, "ü..example"])
def test_what_is_no_domain_is_refused(domain: str) -> None:
    with pytest.raises(UnicodeError):
        domain_names.to_ascii(domain)


def test_every_doorway_keeps_the_domain() -> None:
    assert validators.DirectoryField().clean(SHARP_S) == "xn--strae-oqa.de"
    assert validators.DirectoryField().clean("ΟΔΟΣ.gr") == "xn--pxavbq.gr"
    assert validators.AddressField().clean(f"info@{SHARP_S}") == "info@xn--strae-oqa.de"
    assert AddressesField().clean(f"info@{SIGMA}") == ["info@xn--pxavbm.gr"]
    assert safe_http.parse_target(f"https://{SHARP_S}/hook").host == "xn--strae-oqa.de"


PASTED = [
    "support@contoso.com",
    "Support@Contoso.COM".replace("Support", "support"),
    "SMTP:support@contoso.com",
    "smtp:support@contoso.com",
    "Support Team <support@contoso.com>",
    '"Team, Support" <support@contoso.com>',
    "Support <SMTP:support@contoso.com>",
    "<support@contoso.com>",
    "mailto:support@contoso.com?subject=Hello",
    "support@contoso.com <support@contoso.com>",
    "  support@contoso.com\u200b ",
]


@pytest.mark.parametrize("text", PASTED)
def test_an_address_is_read_alike_everywhere(text: str) -> None:
    assert validators.AddressField().clean(text) == "support@contoso.com"
    assert AddressesField().clean(text) == ["support@contoso.com"]


@pytest.mark.parametrize("text", [text for text in PASTED if "\u200b" not in text])
def test_services_read_it_alike_too(text: str, bob: User) -> None:
    mailbox = mailboxes.register(factories.make_tenant(), address=text, actor=bob)
    assert mailbox.address == "support@contoso.com"


def test_a_list_may_hold_names_and_any_separator() -> None:
    text = 'Support <a@b.com>; "Doe, Jane" <jane@x.com>\nSMTP:c@d.com e@f.com, A@b.com'
    assert mail_addresses.parse_list(text) == ["a@b.com", "jane@x.com", "c@d.com", "e@f.com"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "support",
        "a@b.com, c@d.com",
        "a@b.com Jane <jane@x.com>",
        "A <a@b.com> B <b@b.com>",
        "https://a@b.com",
        "a@b c.d",
    ],
)
def test_what_is_not_one_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        mail_addresses.parse(text)
    assert caught.value.field == "address"


def test_no_address_of_a_list_gets_lost() -> None:
    with pytest.raises(InvalidInput):
        mail_addresses.parse_list("a@b.com Jane <jane@x.com>")


def test_the_api_reads_it_alike(alice: User) -> None:
    tenant = factories.make_tenant()
    program = Program(alice)
    answer = program.post("mailboxes", {"tenant_id": tenant.pk, "address": "Support <SMTP:support@straße.de>"})
    assert answer.status_code == 201, answer.content
    assert SharedMailbox.objects.get().address == "support@xn--strae-oqa.de"
    assert program.get("connections", mailbox="SMTP:support@straße.de").json()["items"] == []
