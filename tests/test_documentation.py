"""The documentation: every page is in the contents, every link leads somewhere, and the portal shows it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from django.core.management import call_command
from django.urls import reverse

from connections import documentation, documentation_search
from connections.models import User
from tests.environment import ROOT

DOCS = ROOT / "docs"
FILES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "clients/python/README.md"])
_CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(autouse=True)
def _forget_pages() -> Iterator[None]:
    for remembered in (documentation._page, documentation_search._sections):
        remembered.cache_clear()
    yield
    for remembered in (documentation._page, documentation_search._sections):
        remembered.cache_clear()


def test_every_page_is_in_the_contents_and_no_other() -> None:
    assert {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} == documentation.PAGES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken = []
    for href in _LINK.findall(_CODE.sub("", path.read_text("utf-8"))):
        parts = urlsplit(href)
        if parts.scheme:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.exists() or (
            parts.fragment and parts.fragment not in documentation.headings_of(target.read_text("utf-8"))
        ):
            broken.append(href)
    assert broken == []


@pytest.mark.django_db
def test_every_page_is_shown_without_anything_from_elsewhere(bob: User, signed_in: Any) -> None:
    browser = signed_in(bob)
    for page in sorted(documentation.PAGES):
        html = browser.get(reverse("documentation_page", args=[page])).content.decode()
        article = html[html.index("<article") : html.index("</article>")]
        assert not re.findall(r"<(?:script|style|iframe|link)\b|\sstyle=|\son\w+=", article), page
        for picture in re.findall(r'<img src="([^"]*)"', article):
            assert picture.startswith("/docs/screenshots/"), page
            assert browser.get(picture)["Content-Type"] == "image/png", (page, picture)
        every_id = re.findall(r'id="([^"]*)"', html)
        ids = set(every_id)
        assert len(ids) == len(every_id), page
        for href in re.findall(r'<a href="(/docs/[^"]*|#[^"]*)"', article):
            target, _, fragment = href.partition("#")
            if target:
                assert browser.get(target).status_code == 200, (page, href)
            else:
                assert fragment in ids, (page, href)
        assert "../" not in "".join(re.findall(r'href="([^"]*)"', article)), page


@pytest.mark.django_db
def test_the_contents_lead_to_every_page(bob: User, signed_in: Any) -> None:
    browser = signed_in(bob)
    html = browser.get("/docs/").content.decode()
    for page in documentation.PAGES:
        assert f'href="/docs/{page}/"' in html
    first = browser.get("/docs/settings/").content.decode()
    assert 'href="#audit-trail"' in first
    assert "AUDIT_SEAL_KEYS" in first


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("PortalTicksWait", "/docs/monitoring/#portaltickswait"),
        ("ENTRA_AUTHORITY_MAX_AGE", "/docs/settings/"),
        ("  restoring   BACKUP ", "/docs/audit/#restoring-a-backup"),
        ("upgrading", "/docs/operating/#upgrading"),
    ],
)
@pytest.mark.django_db
def test_a_search_finds_sections(query: str, first: str, bob: User, signed_in: Any) -> None:
    browser = signed_in(bob)
    html = browser.get("/docs/search/", {"q": query}).content.decode()
    links = re.findall(r'list-group-item-action"\s+href="(/docs/[^"]*)"', html)
    assert links[0].startswith(first)
    assert len(links) <= documentation_search.MOST_RESULTS
    for href in links:
        page, _, anchor = href.partition("#")
        assert not anchor or f'id="{anchor}"' in browser.get(page).content.decode(), href


def test_every_word_must_be_in_the_section() -> None:
    both = documentation_search.search("nginx certificate").matches
    assert both
    for match in both:
        text = f"{match.section.title} {match.section.heading} {match.section.text}".lower()
        assert "nginx" in text
        assert "certificate" in text
    assert documentation_search.search("nginx nothing-of-this-kind").matches == []
    assert documentation_search.search("the").has_more


@pytest.mark.parametrize("query", ["", "   ", "<script>alert(1)</script>", "\\", "(", "[a-", "x" * 5000, "%00", "ß"])
@pytest.mark.django_db
def test_any_query_is_answered(query: str, bob: User, signed_in: Any) -> None:
    response = signed_in(bob).get("/docs/search/", {"q": query})
    assert response.status_code == 200
    assert b"<script>alert" not in response.content


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["nothing", "../README", "..%2f..%2fetc%2fpasswd", "clients", "install.md", "Install"])
def test_nothing_but_pages_is_shown(bob: User, signed_in: Any, page: str) -> None:
    assert signed_in(bob).get(f"/docs/{page}/").status_code == 404


@pytest.mark.django_db
def test_an_installation_without_the_documentation_says_so(
    bob: User, signed_in: Any, settings: Any, tmp_path: Path
) -> None:
    settings.BASE_DIR = tmp_path
    assert "These pages aren&#x27;t installed" in signed_in(bob).get("/docs/").content.decode().replace("'", "&#x27;")
    assert signed_in(bob).get("/docs/install/").status_code == 404


def test_text_of_a_page_is_never_taken_for_html(settings: Any, tmp_path: Path) -> None:
    settings.BASE_DIR = tmp_path
    (tmp_path / "docs").mkdir()
    text = "# <b>T</b>\n\n<script>x</script> [a](javascript:x) ![i](x) [b](../.env) [c](audit.md#x)\n\n```\n</pre><script>\n```\n"
    (tmp_path / "docs" / "api.md").write_text(text)
    document = documentation.page("api")
    assert document is not None
    assert "<script" not in document.html
    assert 'href="javascript' not in document.html
    assert "<span>b</span>" in document.html
    assert 'href="/docs/audit/#x"' in document.html
    assert "<img" not in document.html


def test_a_picture_is_shown_for_the_theme_with_its_size_and_text() -> None:
    page = documentation.page("policy")
    assert page is not None
    light, dark = re.findall(r"<img [^>]*>", page.html)
    assert 'src="/docs/screenshots/policy.png" width="1280" height="800"' in light
    assert 'class="screenshot hide-theme-dark"' in light
    assert 'src="/docs/screenshots/policy-dark.png"' in dark
    assert 'alt="The page of the policy' in dark


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["nothing", "%2e%2e", "home.png"])
def test_no_other_file_is_shown_as_a_picture(bob: User, signed_in: Any, name: str) -> None:
    assert signed_in(bob).get(f"/docs/screenshots/{name}.png").status_code == 404


def test_the_page_of_commands_is_up_to_date() -> None:
    call_command("document_commands", check=True, verbosity=0)
