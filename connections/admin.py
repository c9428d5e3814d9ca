"""Django's admin site, for the day the portal's own pages do not help (break-glass).

The rules are the same as everywhere: tenants and app registrations change through the same forms and services,
secrets are shown nowhere, and what the portal writes by itself can only be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.utils import timezone
from social_django import admin as _registers_its_models  # noqa: F401
from social_django.models import Association, Nonce, UserSocialAuth

from connections import audit
from connections.errors import PortalError
from connections.fields import SecretField
from connections.forms.app_registrations import AppRegistrationEditForm, AppRegistrationForm
from connections.forms.tenants import TenantForm
from connections.microsoft import clouds
from connections.models import (
    AppCredential,
    AppRegistration,
    Approval,
    AuditEvent,
    Connection,
    ConsentLink,
    ConsentRequest,
    MailboxAccess,
    Policy,
    SharedMailbox,
    Tenant,
    User,
)
from connections.models.audit import AuditAction
from connections.services.people import accounts
from connections.services.registry import app_registrations, tenants

# Django's classes take type parameters for the type checker only.
if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    PeopleAdmin = UserAdmin[Any]
    ModelForm = forms.ModelForm[Any]
else:
    ModelAdmin, PeopleAdmin, ModelForm = admin.ModelAdmin, UserAdmin, forms.ModelForm

admin.site.site_header = "Connections for Microsoft 365"
# Roles are groups by name, and who somebody is at Microsoft is told by Microsoft alone: neither is for editing.
admin.site.unregister((Group, UserSocialAuth, Nonce, Association))


@admin.register(User)
class PersonAdmin(PeopleAdmin):
    """People: passwords and roles. The audit trail hears of every change.

    Who may sign in is decided on the portal's own page of the person, where sessions end and what is theirs is told.
    """

    actions = None

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if obj is None else ("is_active", "last_login", "date_joined")

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        person = User.objects.filter(pk=int(object_id)).first() if object_id.isdecimal() else None
        try:
            if person is not None:
                accounts.require_removable(person)
            return super().delete_view(request, object_id, extra_context)
        except PortalError as error:
            messages.error(request, str(error))
            return redirect("admin:connections_user_change", object_id)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        _record(AuditAction.ACCOUNT_ADDED, request, obj, message)
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        _record(AuditAction.ACCOUNT_CHANGED, request, obj, message)
        return super().log_change(request, obj, message)

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        assert isinstance(request.user, User)  # noqa: S101 - the admin site lets nobody else in
        accounts.remove(obj, actor=request.user, now=timezone.now())


def _record(action: AuditAction, request: HttpRequest, person: User, message: Any) -> None:
    """Which fields were changed, roles and flags as they are now; a password's value is nobody's business."""
    assert isinstance(request.user, User)  # noqa: S101 - the admin site lets nobody else in
    parts = [part.get("changed", {}) for part in message] if isinstance(message, list) else []
    facts: dict[str, Any] = {
        "fields": sorted({field for part in parts for field in part.get("fields", [])}),
        "roles": sorted(person.groups.values_list("name", flat=True)),
        "superuser": person.is_superuser,
        "active": person.is_active,
    }
    audit.record(action, person, actor=request.user, changes=facts)


def shown_fields(model: type[models.Model]) -> list[str]:
    """Every column but the secrets."""
    return [field.name for field in model._meta.fields if not isinstance(field, SecretField)]


class ReadOnly(ModelAdmin):
    """Looking, nothing else; secrets are not even fetched."""

    def get_fields(self, request: HttpRequest, obj: models.Model | None = None) -> Any:
        return shown_fields(self.model)

    def get_readonly_fields(self, request: HttpRequest, obj: models.Model | None = None) -> list[str]:
        return shown_fields(self.model)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        secrets = [field.name for field in self.model._meta.fields if isinstance(field, SecretField)]
        return super().get_queryset(request).defer(*secrets)

    def has_add_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False


class ByService(ModelAdmin):
    """Saving and deleting go through the services, so they are checked and audited as on the portal's pages.

    The service is called while the form is validated: whatever it refuses stands next to its field.
    """

    actions = None

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        # Django wraps this in a transaction, and the services call Microsoft, which must not happen inside one.
        return self._changeform_view(request, object_id, form_url, extra_context)  # type: ignore[attr-defined]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Nothing: the service has done it."""

    def save_related(self, *args: Any, **kwargs: Any) -> None:
        """Nothing hangs on these."""

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        raise NotImplementedError

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        try:
            return super().delete_view(request, object_id, extra_context)
        except PortalError as error:
            messages.error(request, str(error))
            return redirect(f"admin:connections_{self.model._meta.model_name}_change", object_id)


class ServiceForm(ModelForm):
    """A ModelForm for the admin site that leaves the work to one of the portal's own forms and services."""

    actor: User

    def portal_form(self) -> forms.Form:
        """The portal's form, bound to what was typed."""
        raise NotImplementedError

    def call(self, cleaned: dict[str, Any]) -> models.Model:
        """Call the service; returns the object."""
        raise NotImplementedError

    def _post_clean(self) -> None:
        """In place of Django's model validation: the portal's form, then the service."""
        form = self.portal_form()
        form.full_clean()
        if not form.errors:
            try:
                self.instance = self.call(form.cleaned_data)
            except PortalError as error:
                form.add_error(error.field if error.field in form.fields else None, str(error))
        self._errors = forms.utils.ErrorDict()
        for field, problems in form.errors.as_data().items():
            known = field if field in self.fields or field == "__all__" else "__all__"
            self.add_error(None if known == "__all__" else known, ValidationError(problems))

    def save(self, commit: bool = True) -> Any:
        return self.instance

    def save_m2m(self) -> None:
        """There are none."""


class TenantAdminForm(ServiceForm):
    """A tenant."""

    environment = forms.ChoiceField(choices=clouds.choices)

    class Meta:
        model = Tenant
        fields = ("name", "environment", "directory_id")

    def portal_form(self) -> forms.Form:
        return TenantForm(self.data, prefix=self.prefix)

    def call(self, cleaned: dict[str, Any]) -> Tenant:
        if self.instance.pk is None:
            return tenants.add(**cleaned, actor=self.actor)
        stored = Tenant.objects.get(pk=self.instance.pk)
        tenants.change(stored, **cleaned, actor=self.actor)
        return stored


class AppRegistrationAdminForm(ServiceForm):
    """An app registration without its credentials, which are added on the portal's own page."""

    class Meta:
        model = AppRegistration
        fields = ("tenant", "name", "client_id", "audience", "allows_delegated", "allows_app_only")

    def portal_form(self) -> forms.Form:
        if self.instance.pk is None:
            return AppRegistrationForm(self.data, prefix=self.prefix)
        data = QueryDict(mutable=True)
        data.update(self.data)
        stored = AppRegistration.objects.get(pk=self.instance.pk)
        data.setlist(self.add_prefix("default_capabilities"), stored.default_capabilities)
        return AppRegistrationEditForm(data, prefix=self.prefix, app_registration=stored)

    def call(self, cleaned: dict[str, Any]) -> AppRegistration:
        if self.instance.pk is None:
            return app_registrations.register(**cleaned, actor=self.actor)
        stored = AppRegistration.objects.get(pk=self.instance.pk)
        app_registrations.change(stored, **cleaned, actor=self.actor)
        return stored


def _with_actor(form: type[ModelForm], user: Any) -> type[ModelForm]:
    return type(form.__name__, (form,), {"actor": user})


@admin.register(Tenant)
class TenantAdmin(ByService):
    """Tenants, by the same form and services as on their page."""

    form = TenantAdminForm
    list_display = ("name", "environment", "directory_id", "tid")
    search_fields = ("name", "directory_id")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return _with_actor(super().get_form(request, obj, change, **kwargs), request.user)

    def delete_model(self, request: HttpRequest, obj: Tenant) -> None:
        assert isinstance(request.user, User)  # noqa: S101 - the admin site lets nobody else in
        tenants.remove(obj, actor=request.user)


@admin.register(AppRegistration)
class AppRegistrationAdmin(ByService):
    """App registrations, by the same form and services as on their page."""

    form = AppRegistrationAdminForm
    list_display = ("name", "tenant", "client_id", "verified_at", "rejected_at")
    search_fields = ("name", "client_id")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if obj is None else ("tenant", "client_id")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return _with_actor(super().get_form(request, obj, change, **kwargs), request.user)

    def delete_model(self, request: HttpRequest, obj: AppRegistration) -> None:
        assert isinstance(request.user, User)  # noqa: S101 - the admin site lets nobody else in
        app_registrations.remove(obj, actor=request.user)


def _read_only(model: type[models.Model], *columns: str) -> None:
    name = f"{model.__name__}Admin"
    admin.site.register(model, type(name, (ReadOnly,), {"list_display": columns}))


_read_only(AppCredential, "__str__", "app_registration", "kind", "expires_at", "retired_at")
_read_only(Connection, "name", "owner", "app_registration", "status", "status_since")
_read_only(SharedMailbox, "address", "tenant")
_read_only(MailboxAccess, "__str__", "state", "probed_at")
_read_only(ConsentLink, "__str__", "state", "requested_at")
_read_only(ConsentRequest, "__str__", "state", "requester_name", "asked_at")
_read_only(Policy, "__str__", "version", "changed_at")
_read_only(Approval, "__str__", "state", "requested_at")
_read_only(AuditEvent, "at", "actor_name", "action", "target_name", "outcome")
