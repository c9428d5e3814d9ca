"""Second factors of local accounts: the page for managing them, and the step of the sign-in that asks for one."""

from typing import Any

import pyotp
import segno
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import roles
from connections.errors import PortalError
from connections.forms.accounts import AppForm, PasskeyForm, SecondFactorForm
from connections.fresh_sign_in import fresh_sign_in_required, note_second_factor
from connections.models import SecondFactor, User
from connections.services.people import passkeys, second_factors, sign_in_limits
from connections.views import sign_in_steps
from connections.views.form_handling import errors_as_messages, errors_on, render_form

# Session keys: the person who has entered a password, with the page to open next, and the challenge for a passkey.
WAITING = "second_factor_for"
CHALLENGE = "passkey_challenge"
TIME_TO_ANSWER = 600  # seconds


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    context = {
        "factors": list(user.second_factors.defer("secret")),
        "with_password": user.has_usable_password(),
        "codes_left": user.recovery_codes.filter(used_at=None).count(),
        "is_required": second_factors.is_required(user),
    }
    return render(request, "second_factors/index.html", context)


@sensitive_post_parameters("secret", "code")
@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def add_app(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    form = AppForm(request.POST or None, initial={"secret": pyotp.random_base32()})
    if form.is_valid():
        with errors_on(form):
            second_factors.add_app(user, **form.cleaned_data, actor=user, now=timezone.now())
            return _added(request, user)
    # The page shows the key that the form sends back. A key in another format did not come from the page.
    secret = str(form["secret"].value() or "")
    if "secret" in form.errors:
        return redirect("second_factor_add_app")
    url = second_factors.app_url(user, secret)
    context = {"secret": secret, "qr_code": segno.make(url).svg_data_uri(scale=4, light="#fff")}
    return render_form(request, "second_factors/add_app.html", form, context)


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def add_passkey(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    challenge = str(request.session.pop(CHALLENGE, "")) if request.method == "POST" else ""
    form = PasskeyForm(request.POST or None)
    if form.is_valid():
        values = {"name": form.cleaned_data["name"], "answer": form.cleaned_data["passkey"], "challenge": challenge}
        with errors_on(form):
            second_factors.add_passkey(user, **values, actor=user, now=timezone.now())
            return _added(request, user)
    options, request.session[CHALLENGE] = passkeys.creation_options(user, existing=_passkeys_of(user))
    return render_form(request, "second_factors/add_passkey.html", form, {"options": options})


def _added(request: HttpRequest, user: User) -> HttpResponse:
    note_second_factor(request)
    if user.recovery_codes.filter(used_at=None).exists():
        messages.success(request, "Sign-in method was added.")
        return redirect("security")
    return _show_recovery_codes(request, user)


@require_POST
@fresh_sign_in_required()
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    user = roles.current_user(request.user)
    factor = get_object_or_404(user.second_factors, pk=pk)
    with errors_as_messages(request):
        second_factors.remove(factor, actor=user, now=timezone.now())
        messages.success(request, f"{factor} was removed.")
    return redirect("security")


@require_POST
@fresh_sign_in_required()
def recovery_codes(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    if not second_factors.has_any(user):
        messages.warning(request, "Add an authenticator app or a passkey first.")
        return redirect("security")
    return _show_recovery_codes(request, user)


@sensitive_variables("codes")
def _show_recovery_codes(request: HttpRequest, user: User) -> HttpResponse:
    codes = second_factors.make_recovery_codes(user, actor=user, now=timezone.now())
    return render(request, "second_factors/recovery_codes.html", {"codes": codes})


def ask(request: HttpRequest, user: User, *, next_url: str) -> HttpResponse:
    """Redirect a person who has entered the right password to the page that asks for the second factor."""
    request.session.cycle_key()
    request.session[WAITING] = {
        "user": user.pk,
        "hash": user.get_session_auth_hash(),
        "next": next_url,
        "at": timezone.now().timestamp(),
    }
    return redirect("second_factor")


@login_not_required
@never_cache
@sensitive_post_parameters("code")
@require_http_methods(["GET", "HEAD", "POST"])
def answer(request: HttpRequest) -> HttpResponse:
    """Ask for the second factor, and complete the sign-in or confirmation that requires it."""
    waiting = request.session.get(WAITING) or {}
    now = timezone.now()
    user = _waiting_person(waiting)
    if user is None or now.timestamp() - waiting["at"] > TIME_TO_ANSWER:
        request.session.pop(WAITING, None)
        return redirect("sign_in")
    form = SecondFactorForm(request.POST or None)
    if form.is_valid():
        try:
            attempt = sign_in_limits.begin_second_factor(user, now=now)
        except sign_in_limits.TooManyAttempts as refusal:
            return sign_in_steps.paused(request, refusal.until)
        try:
            used = _check(request, user, form)
        except PortalError as error:
            until = sign_in_limits.fail(attempt, reason=error.code, now=now)
            if until is not None:
                return sign_in_steps.paused(request, until)
            form.add_error(error.field or None, str(error))
        else:
            sign_in_limits.succeed(attempt)
            return _completed(request, user, used, str(waiting["next"]))
    context = {"name": user.username}
    if ids := _passkeys_of(user):
        context["options"], request.session[CHALLENGE] = passkeys.request_options(ids)
    return render_form(request, "second_factors/answer.html", form, context)


def _waiting_person(waiting: dict[str, Any]) -> User | None:
    """Return the person who has entered the password.

    None if they have since left, changed the password or signed out of all sessions.
    """
    user = User.objects.filter(pk=waiting["user"]).first() if waiting else None
    if user is None or user.is_suspended:
        return None
    return user if constant_time_compare(waiting.get("hash", ""), user.get_session_auth_hash()) else None


def _check(request: HttpRequest, user: User, form: SecondFactorForm) -> str:
    """Return a description of the second factor that was used. Raises WrongCode or PasskeyRefused.

    A challenge can be used for one attempt only.
    """
    challenge = str(request.session.pop(CHALLENGE, ""))
    if form.cleaned_data["passkey"]:
        return second_factors.check_passkey(user, form.cleaned_data["passkey"], challenge=challenge, now=timezone.now())
    return second_factors.check_code(user, form.cleaned_data["code"], now=timezone.now())


def _completed(request: HttpRequest, user: User, used: str, next_url: str) -> HttpResponse:
    request.session.pop(WAITING, None)
    if not request.user.is_authenticated:
        return sign_in_steps.complete_sign_in(request, user, next_url=next_url, second_factor=used)
    if request.user.pk == user.pk:
        sign_in_steps.confirmed(request)
        note_second_factor(request)
    return HttpResponseRedirect(next_url)


def _passkeys_of(user: User) -> list[str]:
    passkeys_only = user.second_factors.filter(kind=SecondFactor.Kind.PASSKEY)
    return list(passkeys_only.values_list("credential_id", flat=True))
