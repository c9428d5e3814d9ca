"""Sign-in, sign-out and the account page."""

from urllib.parse import urlencode

from django.conf import settings
from django.contrib import auth, messages
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST
from social_django import views as social

from connections.access import querysets, roles
from connections.audit import origin
from connections.errors import NotAllowed
from connections.forms.accounts import NewPasswordForm, PasswordSignIn, TimeZoneForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import User
from connections.services.people import accounts, preferences, second_factors, sign_in_details, sign_in_limits
from connections.views import second_factors as second_factor_views
from connections.views import sign_in_steps
from connections.views.form_handling import done, render_form


@login_not_required
@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """Show the sign-in page, and check a local password."""
    if request.user.is_authenticated:
        return HttpResponseRedirect(sign_in_steps.next_url(request))
    form, until = PasswordSignIn(request), None
    if request.method == "POST":
        form, until = sign_in_steps.check_password(request, request.POST)
        if until is not None:
            return sign_in_steps.paused(request, until)
        if not form.errors:
            user = roles.current_user(form.get_user())
            if second_factors.has_any(user):
                return second_factor_views.ask(request, user, next_url=sign_in_steps.next_url(request))
            return sign_in_steps.complete_sign_in(request, user, next_url=sign_in_steps.next_url(request))
    context = {
        "form": form,
        "with_microsoft": sign_in_steps.microsoft_is_configured(),
        "next": sign_in_steps.next_url(request, default=""),
    }
    return render(request, "accounts/sign_in.html", context, status=422 if form.errors else 200)


@login_not_required
@never_cache
@require_POST
def microsoft(request: HttpRequest, backend: str) -> HttpResponse:
    """Start a sign-in with Microsoft. Each one stores a session, so the number per address is limited."""
    try:
        sign_in_limits.begin_at_microsoft(address=origin.get().address, now=timezone.now())
    except sign_in_limits.TooManyAttempts as refusal:
        return sign_in_steps.paused(request, refusal.until)
    response: HttpResponse = social.auth(request, backend)
    return response


@login_not_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def admin_sign_in(request: HttpRequest) -> HttpResponse:
    """Redirect from the admin site's sign-in page to the portal's, which is rate-limited and audited."""
    if request.user.is_authenticated:
        if request.user.is_active and request.user.is_staff:
            return HttpResponseRedirect(sign_in_steps.next_url(request, default=reverse("admin:index")))
        raise NotAllowed("Only portal operators can open the admin site.", action="Ask a portal operator.")
    query = urlencode({"next": sign_in_steps.next_url(request, default=reverse("admin:index"))})
    return HttpResponseRedirect(f"{reverse('sign_in')}?{query}")


@require_http_methods(["GET", "HEAD", "POST"])
def admin_password(request: HttpRequest) -> HttpResponse:
    return redirect("change_password")


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    accounts.signed_out(user, actor=user)
    auth.logout(request)
    return redirect("sign_in")


@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def change_password(request: HttpRequest) -> HttpResponse:
    """Change a local password. All other sessions of the user end."""
    user = roles.current_user(request.user)
    roles.require(user.has_usable_password(), cause="You sign in with Microsoft.", action="Change your password there.")
    form = NewPasswordForm(user, request.POST or None)
    if form.is_valid():
        accounts.change_password(user, password=form.cleaned_data["new_password1"], actor=user)
        auth.update_session_auth_hash(request, user)
        messages.success(request, "Your password was changed. All your other sessions have ended.")
        return redirect("account")
    return render_form(request, "accounts/change_password.html", form)


@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    """Show the user's own account, and set the time zone."""
    user = roles.current_user(request.user)
    form = TimeZoneForm(request.POST or None, initial={"time_zone": user.time_zone})
    if form.is_valid():
        preferences.set_time_zone(user, name=form.cleaned_data["time_zone"], actor=user)
        return done(request, "Time zone saved.", "account")
    signs_in_with_microsoft = sign_in_details.signs_in_with_microsoft(user)
    context = {
        "with_microsoft": signs_in_with_microsoft,
        "with_password": user.has_usable_password(),
        "form": form,
        "role_source": _role_source(user, signs_in_with_microsoft),
        "events": list(querysets.visible_events(user).filter(actor=user).order_by("-pk")[:20]),
    }
    return render(request, "accounts/profile.html", context, status=422 if form.errors else 200)


def _role_source(user: User, signs_in_with_microsoft: bool) -> str:
    if user.is_superuser:
        return "Operator account (superuser) with IT admin permissions."
    if roles.person(user).sleeping_roles:
        hours = f"{settings.ENTRA_AUTHORITY_MAX_AGE:g}"
        return (
            f"Microsoft Entra hasn't confirmed your role within {hours} hours. Sign out, then sign in again to use it."
        )
    if signs_in_with_microsoft:
        return "Based on your roles and groups in Microsoft Entra, and updated at every sign-in."
    return "Assigned to this local account by a portal operator."
