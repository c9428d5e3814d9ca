from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections import presentation
from connections.access import permissions, roles
from connections.forms.alerts import ChannelEditForm, ChannelForm, PreferencesForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import AlertChannel, Delivery, User
from connections.services.notifications import alerts, outbox
from connections.services.notifications import channels as alert_channels
from connections.views import audit, list_pages
from connections.views.form_handling import done, errors_as_messages, errors_on, render_form

_LATEST = 10  # deliveries shown on a channel's page
_SECRETS = ("channel__url", "channel__signing_secret", "credential__secret", "credential__private_key")
_OUTCOMES: dict[str, tuple[str, dict[str, Any]]] = {
    "delivered": ("Delivered", {"delivered_at__isnull": False}),
    "waiting": ("Waiting", {"delivered_at": None, "given_up_at": None, "last_error": ""}),
    "failing": ("Retrying", {"delivered_at": None, "given_up_at": None, "last_error__gt": ""}),
    "given_up": ("Failed", {"delivered_at": None, "given_up_at__isnull": False}),
}


def _row(delivery: Delivery) -> dict[str, Any]:
    if delivery.delivered_at:
        outcome = presentation.Badge("Delivered", presentation.OK)
    elif delivery.given_up_at:
        outcome = presentation.Badge("Failed", presentation.BROKEN)
    elif delivery.last_error:
        outcome = presentation.Badge("Retrying", presentation.WARNING)
    else:
        outcome = presentation.Badge("Waiting", presentation.WAITING)
    recipient = delivery.channel.name if delivery.channel else delivery.email
    may_retry = delivery.delivered_at is None
    return {"delivery": delivery, "outcome": outcome, "recipient": recipient, "may_retry": may_retry}


def _manager(request: HttpRequest) -> User:
    user = roles.current_user(request.user)
    roles.require(
        permissions.can_manage_alerts(user), cause="Only IT admins can view alerts.", action="Ask an IT admin."
    )
    return user


def _shown() -> QuerySet[Delivery]:
    deliveries = Delivery.objects.select_related("incident", "channel", "credential__app_registration")
    return deliveries.defer(*_SECRETS, "payload", "incident__cause", "incident__action")


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    _manager(request)
    filters = list_pages.Filters(
        request,
        search=("email", "incident__title", "channel__name", "subject"),
        placeholder="Recipient or incident",
        model=Delivery,
        choices=[
            list_pages.Choice("event", "Event", Delivery.Event.choices, list_pages.by("event")),
            list_pages.Choice(
                "outcome",
                "Status",
                [(value, label) for value, (label, _) in _OUTCOMES.items()],
                lambda deliveries, value: deliveries.filter(**_OUTCOMES[value][1]),
            ),
        ],
    )
    page = list_pages.page(request, filters.narrow(_shown()), order=("-pk",), matches=filters.matches())
    context = {
        "page": page,
        "rows": [_row(delivery) for delivery in page.items],
        "filters": filters,
        "given_up": Delivery.objects.filter(given_up_at__isnull=False, delivered_at=None).exists(),
    }
    return render(request, "alerts/index.html", context)


@require_POST
def retry(request: HttpRequest, pk: int) -> HttpResponse:
    user = _manager(request)
    delivery = get_object_or_404(_shown(), pk=pk)
    with errors_as_messages(request):
        _send_now(request, delivery, user)
    return redirect("alerts")


@require_POST
def retry_all(request: HttpRequest) -> HttpResponse:
    count = outbox.retry_failed(actor=_manager(request), now=timezone.now())
    alerts_ = "1 alert is" if count == 1 else f"{count} alerts are"
    return done(request, f"{alerts_} queued and will be sent now.", "alerts")


def _send_now(request: HttpRequest, delivery: Delivery, user: User) -> None:
    delivery = outbox.send_now(delivery, actor=user, now=timezone.now())
    recipient = delivery.email or ", ".join(_channels().filter(deliveries=delivery).values_list("name", flat=True))
    if delivery.delivered_at:
        messages.success(request, f"Delivered to {recipient}.")
    else:
        messages.error(request, f"Not delivered to {recipient}. {delivery.last_error}")


def _channels() -> QuerySet[AlertChannel]:
    return AlertChannel.objects.defer("url", "signing_secret").select_related("created_by")


def _channel(request: HttpRequest, pk: int) -> tuple[User, AlertChannel]:
    return _manager(request), get_object_or_404(_channels(), pk=pk)


@require_safe
def channels(request: HttpRequest) -> HttpResponse:
    _manager(request)
    filters = list_pages.Filters(request, search=("name", "host"), placeholder="Name or host")
    page = list_pages.page(request, filters.apply(_channels()))
    return render(request, "alerts/channels/index.html", {"page": page, "filters": filters})


@require_http_methods(["GET", "HEAD", "POST"])
def channel_add(request: HttpRequest) -> HttpResponse:
    user = _manager(request)
    form = ChannelForm(request.POST or None)
    if form.is_valid():
        with errors_on(form):
            channel, secret = alert_channels.add(**form.cleaned_data, actor=user)
            if secret:
                return render(request, "alerts/channels/secret.html", {"channel": channel, "secret": secret})
            messages.success(request, f"{channel} was added. Send a test alert to check the channel.")
            return redirect("alert_channel", pk=channel.pk)
    return render_form(request, "alerts/channels/add.html", form)


@require_safe
def channel(request: HttpRequest, pk: int) -> HttpResponse:
    user, channel = _channel(request, pk)
    context = {
        "channel": channel,
        "is_webhook": channel.kind == AlertChannel.Kind.WEBHOOK,
        "rows": [_row(delivery) for delivery in _shown().filter(channel=channel)[:_LATEST]],
        "events": audit.history(user, channel),
    }
    return render(request, "alerts/channels/detail.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def channel_edit(request: HttpRequest, pk: int) -> HttpResponse:
    user, channel = _channel(request, pk)
    form = ChannelEditForm(request.POST or None, initial={"name": channel.name})
    if form.is_valid():
        with errors_on(form):
            alert_channels.change(channel, **form.cleaned_data, actor=user)
            return done(request, f"{channel} was updated.", "alert_channel", pk=channel.pk)
    return render_form(request, "alerts/channels/edit.html", form, {"channel": channel})


@require_POST
def channel_disable(request: HttpRequest, pk: int) -> HttpResponse:
    user, channel = _channel(request, pk)
    alert_channels.disable(channel, actor=user, now=timezone.now())
    return done(request, f"{channel} is disabled and won't receive alerts.", "alert_channel", pk=pk)


@require_POST
def channel_enable(request: HttpRequest, pk: int) -> HttpResponse:
    user, channel = _channel(request, pk)
    alert_channels.enable(channel, actor=user)
    return done(request, f"{channel} is enabled and receives alerts.", "alert_channel", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def channel_remove(request: HttpRequest, pk: int) -> HttpResponse:
    user, channel = _channel(request, pk)
    if request.method == "POST":
        alert_channels.remove(channel, actor=user)
        return done(request, f"{channel} was removed.", "alert_channels")
    return render(request, "alerts/channels/remove.html", {"channel": channel})


@require_POST
def channel_test(request: HttpRequest, pk: int) -> HttpResponse:
    user, channel = _channel(request, pk)
    _send_test(request, channel, user)
    return redirect("alert_channel", pk=pk)


@require_POST
@fresh_sign_in_required()
def channel_secret(request: HttpRequest, pk: int) -> HttpResponse:
    user, channel = _channel(request, pk)
    with errors_as_messages(request, level=messages.ERROR):
        secret = alert_channels.replace_secret(channel, actor=user, now=timezone.now())
        context = {"channel": channel, "secret": secret, "is_replaced": True}
        return render(request, "alerts/channels/secret.html", context)
    return redirect("alert_channel", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def preferences(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    is_admin = roles.person(user).is_admin
    # If every box is cleared, the submitted form has no fields.
    data = request.POST if request.method == "POST" else None
    form = PreferencesForm(data, choice=alerts.preferences_of(user), is_admin=is_admin)
    if form.is_valid():
        alerts.set_preferences(user, **form.cleaned_data, actor=user)
        return done(request, "Notification settings were saved.", "account_alerts")
    context = {"is_admin": is_admin, "copy_to": settings.ALERT_COPY_TO}
    return render_form(request, "alerts/preferences.html", form, context)


@require_POST
def preferences_test(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    _send_test(request, user, user)
    return redirect("account_alerts")


def _send_test(request: HttpRequest, target: AlertChannel | User, user: User) -> None:
    with errors_as_messages(request, level=messages.ERROR):
        _send_now(request, alerts.send_test(target, actor=user, now=timezone.now()), user)
