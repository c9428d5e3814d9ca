"""Pasting mistakes, field by field: corrected where the intent is clear, otherwise explained."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django import forms
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from connections.forms.credentials import CredentialForm
from connections.forms.tenants import TenantForm
from connections.validators import DirectoryField, ExpiryField, GuidField, NameField, SecretValueField

GUID = "0a1b2c3d-1111-4222-8333-abcdefabcdef"
SECRET = "abc8Q~a-Real_looking.secret~value"


def cleaned(field: forms.Field, typed: Any) -> Any:
    return field.clean(typed)


def error_of(field: forms.Field, typed: Any) -> str:
    with pytest.raises(forms.ValidationError) as caught:
        field.clean(typed)
    return " ".join(caught.value.messages)


@pytest.mark.parametrize(
    "typed",
    [
        GUID,
        GUID.upper(),
        f"  {GUID}\r\n",
        f"\ufeff\u200b{GUID}\u00a0",
        f'"{GUID}"',
        f"“{GUID}”",
        f"{{{GUID}}}",
        GUID.replace("-", ""),
    ],
)
def test_an_id_is_accepted_in_every_notation(typed: str) -> None:
    assert cleaned(GuidField(what="client ID"), typed) == GUID


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (f"https://portal.azure.com/#view/appId/{GUID}", "Enter only the client ID"),
        (f"api://{GUID}", "Enter only the client ID"),
        (GUID[:-1], "It looks like 00000000-"),
        (f"{GUID}{GUID}", "It looks like 00000000-"),
        (f"{GUID} {GUID}", "It looks like 00000000-"),
        ("Contoso Robots", "It looks like 00000000-"),
        ("𝟎𝟎𝟎𝟎𝟎𝟎𝟎𝟎-0000-0000-0000-000000000000", "It looks like 00000000-"),
        ("x" * 5000, "It looks like 00000000-"),
        (f"{GUID}\x00", "It looks like 00000000-"),
        ("   ", "required"),
        ("", "required"),
    ],
)
def test_anything_else_is_refused_with_the_format_of_an_id(typed: str, says: str) -> None:
    assert says in error_of(GuidField(what="client ID"), typed)


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        (f" {GUID.upper()} ", GUID),
        (f"{{{GUID}}}", GUID),
        ("Contoso.OnMicrosoft.com", "contoso.onmicrosoft.com"),
        ("contoso.com.", "contoso.com"),
        ("COMMON", "common"),
        ("organizations", "organizations"),
        ("müller.example", "xn--mller-kva.example"),
    ],
)
def test_a_directory_is_an_id_a_domain_or_a_shared_endpoint(typed: str, taken: str) -> None:
    assert cleaned(DirectoryField(), typed) == taken


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (f"https://login.microsoftonline.com/{GUID}/oauth2/v2.0/token", "Enter only the directory"),
        ("login.microsoftonline.com/contoso.com", "Enter only the directory"),
        ("contoso", "or the full domain, such as"),
        ("Contoso AG", "or the full domain, such as"),
        ("ada@contoso.com", "contoso.com"),
        (GUID[:-2], "is incomplete or too long"),
        ("contoso..com", "a domain name. Enter the directory"),
        ("-contoso.com", "a domain name. Enter the directory"),
        ("con_toso.com", "a domain name. Enter the directory"),
        ("a" * 64 + ".com", "a domain name. Enter the directory"),
        (".".join(["abcdefgh"] * 40), "a domain name. Enter the directory"),
        ("contoso.com; rm", "a domain name. Enter the directory"),
        ("contoso.com\n", None),
        ("", "required"),
    ],
)
def test_an_invalid_directory_is_refused_with_what_to_enter(typed: str, says: str | None) -> None:
    if says is None:
        assert cleaned(DirectoryField(), typed) == "contoso.com"
    else:
        assert says in error_of(DirectoryField(), typed)


@given(st.text(max_size=600))
def test_a_directory_never_becomes_anything_but_a_safe_part_of_an_address(typed: str) -> None:
    try:
        taken = DirectoryField().clean(typed)
    except forms.ValidationError:
        return
    assert taken == taken.lower()
    assert set(taken) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert len(taken) <= 253


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("  Contoso   AG \n", "Contoso AG"),
        ("株式会社コントソ", "株式会社コントソ"),
        ("Mu\u0308ller", "Müller"),
        ("O'Brien & <Söhne>", "O'Brien & <Söhne>"),
        ("नमस्ते", "नमस्ते"),
        ("🤖 robots", "🤖 robots"),
        ("x" * 120, "x" * 120),
    ],
)
def test_a_name_may_be_in_any_script(typed: str, taken: str) -> None:
    assert cleaned(NameField(), typed) == taken


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("x" * 121, "at most 120"),
        ("Con\x07toso", "control characters"),
        ("Contoso\u202egpj.exe", "control characters"),
        ("\u200b \u2060", "required"),
        ("Con\x00toso", "Null characters"),
    ],
)
def test_a_name_without_visible_meaning_is_refused(typed: str, says: str) -> None:
    assert says in error_of(NameField(), typed) or "control characters" in error_of(NameField(), typed)


@pytest.mark.parametrize("typed", [SECRET, f"  {SECRET}\r\n", f"'{SECRET}'", f"\u200b{SECRET}\ufeff"])
def test_a_secret_loses_what_surrounds_it(typed: str) -> None:
    assert cleaned(SecretValueField(), typed) == SECRET


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (GUID, "This is the Secret ID"),
        (f" {{{GUID.upper()}}} ", "This is the Secret ID"),
        (f"{SECRET} {GUID}", "no spaces or line breaks"),
        (f"{SECRET}\n{SECRET}", "no spaces or line breaks"),
        ("https://portal.azure.com/#secrets", "no spaces or line breaks"),
        ("abc" + "*" * 37, "only the beginning"),
        ("x" * 501, "at most 500"),
        ("  ", "required"),
    ],
)
def test_an_invalid_secret_is_refused_and_not_repeated(typed: str, says: str) -> None:
    sentence = error_of(SecretValueField(), typed)
    assert says in sentence
    assert SECRET not in sentence
    assert GUID not in sentence


def test_no_form_ever_renders_a_secret_back() -> None:
    form = CredentialForm({"kind": "secret", "secret": SECRET, "file_password": "hush~hush", "expires_at": "bad"})
    page = str(form)
    assert not form.is_valid()
    assert SECRET not in page
    assert "hush~hush" not in page


def test_an_expiry_is_the_beginning_of_its_day_because_early_is_safe() -> None:
    assert cleaned(ExpiryField(), "2099-03-31") == datetime(2099, 3, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("2020-01-01", "This secret has expired"),
        ("next year", "year-month-day"),
        ("31.03.2099", "year-month-day"),
        ("03/31/2099", "year-month-day"),
        ("2026-02-31", "year-month-day"),
        ("9999-12-31", "too far in the future"),
    ],
)
def test_a_date_that_cannot_be_is_refused(typed: str, says: str) -> None:
    assert says in error_of(ExpiryField(), typed)


def test_a_secret_that_expires_today_has_expired() -> None:
    today = timezone.now().date()
    assert "This secret has expired" in error_of(ExpiryField(), today.isoformat())
    assert cleaned(ExpiryField(), (today + timedelta(days=1)).isoformat())


@pytest.mark.parametrize("months", ["0", "25", "-1", "1.5", "many", "1e9", ""])
def test_months_out_of_range_are_refused(months: str) -> None:
    assert "months" in CredentialForm({"kind": "generate", "months": months}).errors


def test_an_unknown_environment_is_refused() -> None:
    form = TenantForm({"name": "x", "environment": "moon", "directory_id": "contoso.com"})
    assert "environment" in form.errors


@pytest.mark.parametrize(
    "typed", ["x", "ünï", "' OR 1=1 --", "../../etc/passwd", "\x00", "9" * 400, "%00%0a", "{{7*7}}"]
)
def test_garbage_in_every_field_is_handled(db: None, typed: str) -> None:
    from connections.forms.app_registrations import AppRegistrationForm, ScriptForm

    for form_class in (TenantForm, AppRegistrationForm, CredentialForm, ScriptForm):
        names = list(form_class.base_fields)
        form = form_class(dict.fromkeys(names, typed))
        assert not form.is_valid()
        assert form.errors
