"""Every page leads to the part of the documentation that explains it."""

from typing import Any

import pytest

from connections import documentation, help_links
from connections.models import Connection, User
from tests import permissions_table
from tests.environment import ROOT

# What people don't read in the portal's frame: files, answers for programs, redirects, and pages before the sign-in.
WITHOUT = frozenset(
    """
    admin_password admin_sign_in api:api-root api:openapi-json api:reference confirm_continue connection_choose
    consent_callback credential_certificate documentation documentation_page
    documentation_picture documentation_search healthz jwks metrics
    openid_configuration picker readyz review_export second_factor sign_in sign_in_link sign_in_link_done social:begin
    social:complete
    """.split()  # noqa: SIM905
)
PAGES = frozenset(row.name for row in permissions_table.rows() if row.method == "GET" and {*row.answers} & {"200"})


def test_every_page_has_help_and_no_other() -> None:
    assert set(help_links.TARGETS) == PAGES - WITHOUT


@pytest.mark.parametrize("target", sorted(set(help_links.TARGETS.values())))
def test_each_part_of_the_documentation_exists(target: str) -> None:
    page, _, heading = target.partition("#")
    assert page in documentation.PAGES
    text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    assert not heading or heading in documentation.headings_of(text)


@pytest.mark.django_db
def test_the_link_is_on_the_page(bob: User, signed_in: Any, connection: Connection) -> None:
    browser = signed_in(bob)
    assert 'href="/docs/member/#connections"' in browser.get(f"/connections/{connection.pk}/").content.decode()
    assert "Help</a>" not in browser.get("/docs/").content.decode()
    assert "Help</a>" not in browser.get("/connections/0/").content.decode().partition("<main")[2]
