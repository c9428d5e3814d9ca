"""The page on which signed-in people confirm their identity again; see connections/fresh_sign_in.py."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe

from connections.access import roles
from connections.forms.accounts import ConfirmPasswordForm
from connections.fresh_sign_in import HELD_FORM, is_fresh
from connections.services.people import second_factors, sign_in_details
from connections.views import second_factors as second_factor_views
from connections.views import sign_in_steps
from connections.views.form_handling import render_form


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request: HttpRequest) -> HttpResponse:
    """Ask for the password (and the second factor), or offer to confirm with Microsoft."""
    user = roles.current_user(request.user)
    # Where to go afterwards: to the page with the form that is being held, or to the requested page.
    url = reverse("confirm_continue") if HELD_FORM in request.session else sign_in_steps.next_url(request)
    form = ConfirmPasswordForm(request.POST or None)
    if user.has_usable_password() and form.is_valid():
        data = {"username": user.username, "password": form.cleaned_data["password"]}
        checked, until = sign_in_steps.check_password(request, data)
        if until is not None:
            return sign_in_steps.paused(request, until)
        if not checked.errors:
            if second_factors.has_any(user):
                return second_factor_views.ask(request, user, next_url=url)
            sign_in_steps.confirmed(request)
            return HttpResponseRedirect(url)
        form.add_error("password", "Incorrect password.")
    with_microsoft = sign_in_details.signs_in_with_microsoft(user)
    context = {
        "next": sign_in_steps.next_url(request),
        "after": url,
        "with_password": user.has_usable_password(),
        "with_microsoft": with_microsoft and sign_in_steps.microsoft_is_configured(),
        "minutes": settings.FRESH_SIGN_IN_MINUTES,
    }
    return render_form(request, "confirmation/confirm.html", form, context)


@never_cache
@require_safe
def proceed(request: HttpRequest) -> HttpResponse:
    """Show the form that the confirmation interrupted, with a button that submits it."""
    held = request.session.get(HELD_FORM)
    if held is None:
        return redirect("home")
    if not is_fresh(request):
        return redirect("confirm_identity")
    del request.session[HELD_FORM]
    return render(request, "confirmation/proceed.html", {"held": held})
