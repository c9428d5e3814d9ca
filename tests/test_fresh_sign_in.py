"""Sensitive pages ask for a sign-in of the last minutes. No such page can be forgotten."""

import ast
import inspect
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django import forms
from django.contrib import admin
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

from connections import fresh_sign_in
from connections.fresh_sign_in import FRESH_AT
from connections.models import ApiKey, AuditEvent, User
from tests import browser_sessions, factories, permissions_table
from tests.environment import ROOT

# Pages that need a fresh sign-in for a POST.
FRESH = frozenset(
    """
    access_export access_matrix_export alert_channel_secret api_key_add api_key_rotate app_add app_remove audit_export bulk_action_start
    change_password
    change_request_approve change_request_carry_out connect_new_app share_emergency
    connection_export connection_hand_over credential_add credential_next credential_retire person_enable person_hand_over policy policy_app
    recovery_codes review_export second_factor_add_app second_factor_add_passkey second_factor_remove
    service_account_add service_account_edit service_account_key_add
    """.split()  # noqa: SIM905
)
# Services that issue keys, change credentials, policy, owners or roles, or export.
SENSITIVE = frozenset(
    """
    bulk_actions.start change_requests.carry_out emergency_access.take api_keys.issue api_keys.rotate api_keys.make_for credentials.add credentials.retire
    credentials.next_certificate app_registrations.register app_registrations.remove new_app.connect accounts.enable_person channels.replace_secret policy.change
    ownership_transfer.transfer accounts.set_roles service_accounts.create service_accounts.change
    accounts.change_password audit_export.export history_export.export access_review_report.table recorded_export.of_list
    second_factors.add_app second_factors.add_passkey second_factors.remove
    second_factors.make_recovery_codes
    """.split()  # noqa: SIM905
)
# Pages whose POST needs none: nothing in it gives away power that outlasts the session.
WITHOUT = frozenset(
    """
    account account_alerts account_alerts_test admin_password admin_sign_in admin_sign_out alert_channel_add
    alert_channel_disable alert_channel_edit alert_channel_enable alert_channel_remove alert_channel_test
    alert_retry alerts_retry change_request_decline change_request_withdraw api_key_limit api_key_revoke api_key_revoke_previous app_edit
    app_consent_check app_consent_remove app_consents app_verify approval_approve approval_ask approval_decline
    approval_withdraw audit_verify saved_view_add
    saved_view_remove bulk_action_add bulk_action_preview bulk_action_stop connection_columns connection_tags confirm_identity connect_service connection_check connection_disable connection_edit
    connection_enable connection_finish connection_remove connection_sign_in connection_sign_in_link
    consent_request_add consent_request_approve consent_request_decline consent_request_withdraw
    consent_start credential_expiry incident_add_tenant mailbox_add mailbox_attach mailbox_detach mailbox_edit
    mailbox_permission mailbox_probe mailbox_probe_all connection_default reference_add reference_edit reference_point reference_remove
    mailbox_remove mailbox_send microsoft_errors mailbox_test person_disable person_sign_out review review_add
    review_cancel review_plan second_factor service_account_disable service_account_enable
    service_account_remove session_end sessions_end_all share_add share_end sign_in sign_in_link sign_out
    notification_open notification_read notifications_read setup_confirm setup_reopen
    social:begin social:complete team_add team_edit team_member_add team_member_remove team_remove
    tenant_add tenant_edit tenant_remove
    """.split()  # noqa: SIM905
)


def views(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            if pattern.namespace not in ("admin", "api"):
                yield from views(pattern.url_patterns, f"{pattern.namespace}:" if pattern.namespace else prefix)
        elif isinstance(pattern, URLPattern):
            yield f"{prefix}{pattern.name}", pattern.callback


VIEWS = dict(views(get_resolver().url_patterns))


def test_every_page_is_listed_with_or_without_it() -> None:
    """A new page that accepts a POST changes one of these two lists, and whoever adds it has thought about it."""
    guarded = {name for name, view in VIEWS.items() if getattr(view, "needs_fresh_sign_in", False)}
    assert guarded == FRESH
    posts = {row.name for row in permissions_table.rows() if row.method == "POST" and "405" not in row.answers}
    assert posts - FRESH == WITHOUT


def _calls(tree: ast.AST) -> set[str]:
    calls = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            calls.add(name)
    return calls


def _sensitive_views() -> Iterator[str]:
    """Yield the views that call a sensitive service, themselves or through functions of their module."""
    for path in sorted((ROOT / "connections/views").glob("*.py")):
        functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        reached = {name: _calls(node) for name, node in functions.items()}
        for _ in functions:
            for calls in reached.values():
                calls |= {inner for name in calls & functions.keys() for inner in reached[name]}
        for name, calls in reached.items():
            if calls & SENSITIVE:
                yield f"connections.views.{path.stem}.{name}"


def test_whatever_calls_a_sensitive_service_has_it() -> None:
    by_function = {
        f"{inspect.unwrap(view).__module__}.{inspect.unwrap(view).__name__}": view for view in VIEWS.values()
    }
    unguarded = [
        name
        for name in _sensitive_views()
        if name in by_function and not getattr(by_function[name], "needs_fresh_sign_in", False)
    ]
    assert not unguarded
    assert len(list(_sensitive_views())) >= 15


def test_the_sensitive_services_exist() -> None:
    text = "".join(path.read_text() for path in (ROOT / "connections/views").glob("*.py"))
    unused = {service for service in SENSITIVE if f"{service}(" not in text}
    assert unused <= {"accounts.set_roles"}


@pytest.mark.django_db
def test_the_admin_sites_pages_that_change_something_have_it(client: Client) -> None:
    root = User.objects.create_superuser("root", password=factories.PASSWORD)
    browser_sessions.sign_in(client, root, is_fresh=False)
    app = factories.make_app_registration()
    assert User in admin.site._registry
    for name, arguments in (
        ("connections_tenant_add", []),
        ("connections_tenant_change", [app.tenant.pk]),
        ("connections_tenant_delete", [app.tenant.pk]),
        ("connections_appregistration_add", []),
        ("connections_appregistration_change", [app.pk]),
        ("connections_appregistration_delete", [app.pk]),
        ("connections_user_add", []),
        ("connections_user_change", [root.pk]),
        ("connections_user_delete", [root.pk]),
        ("auth_user_password_change", [root.pk]),
    ):
        answer = client.post(reverse(f"admin:{name}", args=arguments), {"post": "yes"})
        assert answer.status_code == 302, name
        assert answer["Location"].startswith("/account/confirm/"), name


@pytest.fixture
def stale(client: Client, bob: User) -> Client:
    browser_sessions.sign_in(client, bob, is_fresh=False)
    return client


def new_key() -> dict[str, Any]:
    day = (timezone.now() + timedelta(days=1)).date().isoformat()
    return {"name": "Robot", "scopes": ["token:read"], "expires_on": day}


def test_the_form_is_opened_only_after_a_fresh_sign_in(stale: Client) -> None:
    answer = stale.get("/api-keys/add/")
    assert answer["Location"] == "/account/confirm/?next=%2Fapi-keys%2Fadd%2F"
    page = stale.get(answer["Location"]).content.decode()
    assert "15 minutes" in page
    answer = stale.post("/account/confirm/", {"password": factories.PASSWORD, "next": "/api-keys/add/"})
    assert answer["Location"] == "/api-keys/add/"
    assert stale.get("/api-keys/add/").status_code == 200
    assert AuditEvent.objects.filter(action="account.confirmed").count() == 1


def test_what_was_typed_is_sent_after_the_confirmation(stale: Client, bob: User) -> None:
    answer = stale.post("/api-keys/add/", new_key())
    assert answer["Location"].startswith("/account/confirm/")
    assert not ApiKey.objects.exists()
    answer = stale.post(answer["Location"], {"password": factories.PASSWORD})
    assert answer["Location"] == "/account/confirm/continue/"
    page = stale.get(answer["Location"]).content.decode()
    assert 'action="/api-keys/add/"' in page
    for name, value in (("name", "Robot"), ("scopes", "token:read")):
        assert f'<input type="hidden" name="{name}" value="{value}">' in page
    assert stale.post("/api-keys/add/", new_key()).status_code == 200
    assert ApiKey.objects.get().owner == bob


def test_a_wrong_password_confirms_nothing_and_is_limited(stale: Client) -> None:
    answers = [stale.post("/account/confirm/", {"password": "wrong"}).status_code for _ in range(6)]
    assert answers == [422] * 4 + [429] * 2
    assert stale.session[FRESH_AT] == 0


def test_confirming_changes_the_session_key(stale: Client) -> None:
    before = stale.session.session_key
    stale.post("/account/confirm/", {"password": factories.PASSWORD})
    assert stale.session.session_key != before


def test_a_sign_in_with_the_password_is_fresh_for_fifteen_minutes(client: Client, bob: User) -> None:
    client.post("/sign-in/", {"username": "bob", "password": factories.PASSWORD})
    assert client.get("/api-keys/add/").status_code == 200
    session = client.session
    session[FRESH_AT] -= 15 * 60
    session.save()
    assert client.get("/api-keys/add/").status_code == 302


def test_no_secret_is_kept_in_the_session(stale: Client) -> None:
    typed = {
        "label": "Kept",
        "secret": "not-kept-1",
        "file_password": "not-kept-2",
        "url": "https://x.example/not-kept",
    }
    stale.post("/policy/", typed | {"private_key": "not-kept-3", "csrfmiddlewaretoken": "not-kept-4"})
    held = str(stale.session["held_form"])
    assert "Kept" in held
    assert "not-kept" not in held


def test_every_secret_field_of_a_form_is_recognised() -> None:
    """Forms mark secrets by a password widget; these must match the pattern of what is not kept."""
    import importlib
    import pkgutil

    import connections.forms

    for module in pkgutil.iter_modules(connections.forms.__path__):
        members = vars(importlib.import_module(f"connections.forms.{module.name}")).values()
        for form in members:
            if isinstance(form, type) and issubclass(form, forms.BaseForm):
                for name, field in getattr(form, "base_fields", {}).items():
                    if isinstance(field.widget, forms.PasswordInput) or name in ("secret", "code", "passkey"):
                        assert fresh_sign_in._SECRET_FIELD.search(name), (form, name)


def test_a_large_form_is_not_kept_but_its_page_opens_again(stale: Client) -> None:
    stale.post("/policy/", {"reason": "x" * 30_000})
    assert "held_form" not in stale.session
    answer = stale.post("/account/confirm/?next=/policy/", {"password": factories.PASSWORD})
    assert answer["Location"] == "/policy/"


def test_htmx_is_led_to_the_page_as_a_whole(stale: Client) -> None:
    answer = stale.post("/policy/", {}, HTTP_HX_REQUEST="true")
    assert answer.status_code == 204
    assert answer["HX-Redirect"].startswith("/account/confirm/")


def test_an_api_key_needs_no_fresh_sign_in(bob: User) -> None:
    _, text = factories.make_key(bob)
    assert Client().get("/api/v1/me", HTTP_AUTHORIZATION=f"Bearer {text}").status_code == 200
