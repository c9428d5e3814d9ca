"""Malformed and malicious requests: every page responds with a message, and none crashes.

test_bad_input.py tests the individual fields.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from django.db import transaction
from django.test import Client

from connections import audit
from connections.models import AuditEvent, Connection, SharedMailbox, Tenant, User
from connections.models.audit import AuditAction
from tests import factories, full_dataset, permissions_table
from tests.test_csp import assert_nothing_inline

pytestmark = pytest.mark.django_db

RUBBISH = {
    "nothing": "",
    "spaces": " \t\r\n\u00a0\u200b ",
    "nul": "a\x00b",
    "emoji": "🤖💥" * 20,
    "right to left": "\u202egpj.exe\u2066",
    "long": "x" * 10_000,
    "html": "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>",
    "template": "{{ settings.SECRET_KEY }}{% debug %}",
    "sql": "'; DROP TABLE connections_connection; --",
    "address": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize?client_id=x#y",
    "negative": "-1",
    "huge": "9" * 30,
    "enormous": "9" * 5000,
    "other digits": "١٢٣",
    "list": "[]",
    "path": "../../../../etc/passwd",
    "percent": "%00%0d%0aSet-Cookie:x=y",
    "half a letter": "\ud800",
}


def who_may(route: str) -> str:
    """Return a person who may send this form."""
    row = next(row for row in permissions_table.rows() if (row.name, row.method) == (route, "POST"))
    return next(person for person in ("bob", "alice", "carol", "dave") if row.of(person) in ("200", "302"))


def assert_answered(answer: Any, where: Any) -> None:
    assert answer.status_code in (200, 302, 400, 404, 414, 422), (where, answer.status_code)
    if answer["Content-Type"].startswith("text/html") and answer.content:
        text = answer.content.decode()
        assert_nothing_inline(text, str(where))
        assert "<script>alert" not in text, where
        assert "\n\nSet-Cookie" not in str(answer.headers), where


MORE_FIELDS = {
    "app_add": ("kind", "label", "months", "default_capabilities", "certificate_file", "file_password"),
    "app_edit": ("default_capabilities",),
    "app_verify": ("credential",),
    "connect_new_app": ("extra_scopes", "mailboxes", "by_link", "app_name", "tenant_name", "credential-label"),
    "connect_service": ("extra_scopes", "mailboxes", "by_link", "preview"),
    "connection_edit": ("extra_scopes", "preview"),
    "consent_start": ("check", "go", "directory_id"),
    "credential_add": ("label", "months", "certificate_file", "file_password"),
    "tenant_edit": ("look_up",),
}


def forms(contoso: full_dataset.World) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every POST route with a valid form, or with its empty fields."""
    filled = full_dataset.posted(contoso)
    for row in permissions_table.rows():
        fields = {**filled.get(row.name, {}), **dict.fromkeys(MORE_FIELDS.get(row.name, ()), "")}
        if row.method == "POST" and fields and "connections" not in row.name:
            yield row.name, {**fields, **filled.get(row.name, {})}


@pytest.mark.parametrize("kind", RUBBISH)
def test_garbage_in_any_field_of_any_form_is_handled(kind: str, contoso: full_dataset.World) -> None:
    rubbish = RUBBISH[kind]
    if kind == "half a letter":
        rubbish = rubbish.encode("utf-8", "replace").decode()
    tried, turn = 0, list(RUBBISH).index(kind)
    for name, fields in forms(contoso):
        client, path = factories.signed_in(contoso.people[who_may(name)]), contoso.url(name)
        # Every kind goes into all fields at once, but only every fifth kind into each single field: all combinations
        # would take minutes.
        alone = [field for place, field in enumerate(fields) if (place + turn) % 5 == 0]
        for field in [*alone, None]:
            sent = dict.fromkeys(fields, rubbish) if field is None else {**fields, field: rubbish}
            with transaction.atomic():
                assert_answered(client.post(path, {**full_dataset.FILLED_IN, **sent}), (name, field, kind))
                transaction.set_rollback(True)
            tried += 1
    assert tried > 50


def test_a_field_sent_twice_or_as_a_list_is_handled(contoso: full_dataset.World) -> None:
    for name, fields in forms(contoso):
        client, path = factories.signed_in(contoso.people[who_may(name)]), contoso.url(name)
        for field, value in fields.items():
            doubled = [value, value] if not isinstance(value, list) else [*value, *value]
            with transaction.atomic():
                assert_answered(client.post(path, {**full_dataset.FILLED_IN, **fields, field: doubled}), (name, field))
                transaction.set_rollback(True)


def test_a_refused_form_keeps_its_input_except_secrets(contoso: full_dataset.World) -> None:
    client = factories.signed_in(contoso.people["alice"])
    typed = {
        "kind": "secret",
        "secret": "a-secret-that-must-not-come-back",
        "name": "My <b>own</b> name",
        "client_id": "https://portal.azure.com/",
        "tenant": contoso.tenant.pk,
        "audience": "multi",
        "allows_delegated": "on",
        "expires_at": "tomorrow",
        "label": "until spring",
    }
    page = client.post("/apps/add/", typed).content.decode()
    assert "a-secret-that-must-not-come-back" not in page
    for kept in ("My &lt;b&gt;own&lt;/b&gt; name", "https://portal.azure.com/", "tomorrow", "until spring"):
        assert kept in page, kept


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("tenant_add", {"name": "Contoso"}, "name"),
        ("tenant_add", {"directory_id": factories.DIRECTORY_ID}, "directory_id"),
        ("app_edit", {"name": "Fabrikam app"}, "name"),
        ("connect_service", {"name": "Invoices"}, "name"),
        ("mailbox_add", {"address": "SUPPORT@contoso.example"}, "address"),
    ],
)
def test_duplicates_are_reported_next_to_the_field(
    name: str, change: dict[str, str], field: str, contoso: full_dataset.World
) -> None:
    client = factories.signed_in(contoso.people[who_may(name)])
    before = (Tenant.objects.count(), Connection.objects.count(), SharedMailbox.objects.count())
    answer = client.post(contoso.url(name), {**full_dataset.posted(contoso)[name], **change})
    assert field in answer.context["form"].errors, answer.content.decode()
    assert (Tenant.objects.count(), Connection.objects.count(), SharedMailbox.objects.count()) == before


NUMBERS = ("0", "9223372036854775807", "9223372036854775808", str(2**64), "9" * 40, "9" * 4400, "-1", "1.0", "١", "x")


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:24])
@pytest.mark.parametrize("method", ["get", "post"])
def test_an_impossible_id_is_not_found(number: str, method: str, contoso: full_dataset.World) -> None:
    client = factories.signed_in(contoso.people["alice"])
    tried = 0
    for row in permissions_table.rows():
        path = contoso.url(row.name, row.route.partition("/")[2])
        parts = path.split("/")
        for place, part in enumerate(parts):
            if not part.isdigit() or row.method.lower() != method:
                continue
            odd = "/".join([*parts[:place], number, *parts[place + 1 :]])
            answer = getattr(client, method)(odd, full_dataset.posted(contoso).get(row.name, {}))
            # 405, 403 and (without a key) 401 are decided before any object is looked up.
            expected = (404, int(row.of("alice"))) if row.of("alice") in ("401", "403", "405") else (404,)
            assert answer.status_code in expected, (row, odd[:80])
            tried += 1
    assert tried > 15


QUERIES = (
    "q",
    "status",
    "type",
    "tenant",
    "environment",
    "state",
    "after",
    "before",
    "who",
    "action",
    "target_type",
    "target_id",
    "outcome",
    "date_from",
    "date_to",
    "script",
    "download",
    "name",
    "capabilities",
    "types",
    "audience",
    "credential",
    "format",
    "next",
    "page",
)


@pytest.mark.parametrize("kind", RUBBISH)
def test_every_page_handles_any_query_string(kind: str, contoso: full_dataset.World) -> None:
    rubbish = RUBBISH[kind].encode("utf-8", "surrogatepass")[:3000]
    client, turn = factories.signed_in(contoso.people["alice"]), list(RUBBISH).index(kind)
    pages = [row for row in permissions_table.rows() if row.method == "GET" and row.of("alice") == "200"]
    for row in pages[turn % 5 :: 5]:  # every kind of input goes to a fifth of the pages
        path = contoso.url(row.name)
        together = urlencode([(name, rubbish) for name in QUERIES])
        doubled = urlencode([(name, value) for name in QUERIES[:9] for value in (rubbish, b"x")])
        for query in (together, doubled):
            assert_answered(client.get(f"{path}?{query}"), (row, kind))


@pytest.mark.parametrize(
    "key",
    [
        [],
        ["x"],
        ["x", "9" * 30],
        ["x", "-" + "9" * 30],
        ["x", "nan"],
        ["x", None],
        [["x"], {"y": 1}],
        {"a": 1},
        "text",
        1e400,
        ["\ud800", "1"],
        ["x\x00", "1"],
        ["9" * 5000, "9" * 5000],
    ],
    ids=lambda key: str(key)[:30].encode("ascii", "replace").decode(),
)
@pytest.mark.parametrize("direction", ["after", "before"])
def test_an_invalid_page_key_gives_a_page(key: Any, direction: str, contoso: full_dataset.World) -> None:
    client = factories.signed_in(contoso.people["alice"])
    coded = base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")
    for name in ("tenants", "apps", "connections", "mailboxes", "audit"):
        assert client.get(contoso.url(name), {direction: coded}).status_code == 200, name
    single = base64.urlsafe_b64encode(json.dumps(key[1:] if isinstance(key, list) else key).encode()).decode()
    assert client.get(contoso.url("audit"), {direction: single}).status_code == 200


@pytest.mark.parametrize("query", ["q=%ff%fe", "q=%", "%00=%00", "&&&==", "q[]=1&q[a]=2", "status=active&status=x"])
def test_an_undecodable_query_string_is_handled(query: str, contoso: full_dataset.World) -> None:
    for person in ("alice", "bob"):
        assert factories.signed_in(contoso.people[person]).get(f"/connections/?{query}").status_code == 200


CALLBACKS = ("/auth/complete/microsoft/", "/auth/complete/microsoft-connect/", "/consent/callback/")


@pytest.mark.parametrize("kind", RUBBISH)
@pytest.mark.parametrize("path", CALLBACKS)
def test_garbage_callbacks_change_nothing(path: str, kind: str, contoso: full_dataset.World) -> None:
    rubbish = RUBBISH[kind].encode("utf-8", "surrogatepass")[:2000]
    names = ("state", "code", "error", "error_description", "error_subcode", "admin_consent", "tenant", "partial_token")
    before = AuditEvent.objects.count()
    for client in (Client(), factories.signed_in(contoso.people["bob"])):
        queries = [urlencode(dict.fromkeys(names, rubbish))]
        queries += [urlencode({"state": "x", name: rubbish}) for name in names[1:]]
        for query in queries:
            answer = client.get(f"{path}?{query}")
            # social-auth redirects tokens of its partial pipelines, which the portal does not use, to the start page.
            assert answer.status_code == 400 or answer["Location"] == "/sign-in/", (query[:80], answer.status_code)
            assert_answered(answer, query[:80])
    assert AuditEvent.objects.count() == before
    assert Connection.objects.get(pk=contoso.connection.pk).status == "active"


def test_too_many_fields_and_too_much_text_are_refused_politely(contoso: full_dataset.World) -> None:
    client = factories.signed_in(contoso.people["alice"])
    assert client.post("/tenants/add/", {f"field{n}": "x" for n in range(600)}).status_code == 400
    assert client.post("/tenants/add/", {"name": "x" * 2_000_000}, content_type="text/plain").status_code in (200, 400)
    many = urlencode({"name": "x" * 2_000_000})
    answer = client.post("/tenants/add/", many, content_type="application/x-www-form-urlencoded")
    assert answer.status_code in (400, 413)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"--x\r\ngarbage", "multipart/form-data; boundary=x"),
        (b"\xff\xfe", "multipart/form-data"),
        (b"name=%ff", "application/x-www-form-urlencoded; charset=utf-8"),
        (b"name=x", "application/x-www-form-urlencoded; charset=no-such"),
    ],
)
def test_a_body_that_is_no_form_is_handled(body: bytes, kind: str, contoso: full_dataset.World) -> None:
    client = factories.signed_in(contoso.people["alice"])
    for path in ("/tenants/add/", "/apps/add/", contoso.url("credential_add")):
        assert client.generic("POST", path, body, content_type=kind).status_code in (200, 400), path


@pytest.mark.parametrize("path", ["/sign-in/", "/microsoft-errors/", "/teams/add/"])
@pytest.mark.parametrize("charset", ["utf-7", "UTF-16", "rot13"])
def test_a_form_in_another_encoding_is_handled(path: str, charset: str, contoso: full_dataset.World) -> None:
    fields = ("username", "password", "shown", "name")
    parts = (f'--B\r\nContent-Disposition: form-data; name="{field}"\r\n\r\nAADSTS50011 +2AA-\r\n' for field in fields)
    browser = factories.signed_in(contoso.people["alice"]) if path == "/teams/add/" else Client()
    body, kind = f"{''.join(parts)}--B--\r\n", f"multipart/form-data; boundary=B; charset={charset}"
    assert browser.generic("POST", path, body, content_type=kind).status_code < 500


def test_garbage_cookies_sign_nobody_in(contoso: full_dataset.World) -> None:
    for value in ("x", "../../etc/passwd", "a" * 4000, "\x01\x02", '";"', "ünï"):
        client = Client()
        client.cookies["portal_session"] = value
        client.cookies["messages"] = value
        client.cookies["csrftoken"] = value
        assert client.get("/").status_code == 302
        assert client.get("/sign-in/").status_code == 200


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("203.0.113.9, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:51234", "192.0.2.7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("unknown", None),
        ("'; DROP TABLE", None),
        ("a\x00b", None),
        ("", "127.0.0.1"),
    ],
)
def test_an_invalid_address_is_not_recorded(
    client: Client, settings: Any, bob: User, header: str, address: str | None
) -> None:
    """Proxies may forward anything; some add the port."""
    settings.TRUSTED_PROXIES = 1
    answer = client.post(
        "/sign-in/", {"username": "bob", "password": factories.PASSWORD}, headers={"x-forwarded-for": header}
    )
    assert answer.status_code == 302
    assert AuditEvent.objects.get(action="account.signed_in").address == address


def test_the_longest_names_fit_into_the_audit_trail(bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(first_name="f" * 150, last_name="l" * 150, username="u" * 150)
    bob.refresh_from_db()
    connection = factories.make_connection(owner=bob, name="n" * 120)
    event = audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=bob)
    assert len(factories.reloaded(event).actor_name) <= 320
    assert event.actor_name.endswith("<" + "u" * 150 + ">"), "the sign-in name is what tells people apart"


@pytest.mark.parametrize("path", ["/%00", "/%ff", "/" + "x" * 5000, "/connections/1%00/", "/.env", "/%2e%2e/"])
def test_odd_paths_are_not_found(path: str, bob: User) -> None:
    assert factories.signed_in(bob).get(path).status_code == 404
    assert Client().get(path).status_code in (302, 404)


def test_a_path_is_shown_as_text(bob: User) -> None:
    answer = factories.signed_in(bob).get("/" + quote("<script>alert(1)</script>"))
    assert answer.status_code == 404
    assert "<script>alert" not in answer.content.decode()
