"""Django's admin site, for emergencies. Changes go through services, and secrets are never shown."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.decorators import method_decorator
from social_django import admin as _registers_its_models  # noqa: F401
from social_django.models import Association, Nonce, UserSocialAuth

from connections import audit
from connections.access import roles
from connections.errors import PortalError
from connections.fields import SecretField
from connections.forms.app_registrations import AppRegistrationEditForm, AppRegistrationForm
from connections.forms.tenants import TenantForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.microsoft import clouds
from connections.models import AppRegistration, Tenant, User
from connections.models.audit import AuditAction
from connections.services.people import accounts, sign_in_details
from connections.services.registry import app_registrations, tenants

# These Django classes accept type parameters only in type checkers.
if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    PeopleAdmin = UserAdmin[Any]
    PasswordForm = AdminPasswordChangeForm[Any]
    ModelForm = forms.ModelForm[Any]
else:
    ModelAdmin, PeopleAdmin, ModelForm = admin.ModelAdmin, UserAdmin, forms.ModelForm
    PasswordForm = AdminPasswordChangeForm

admin.site.site_header = "Connections for Microsoft 365"
# These need no admin pages: roles are groups with fixed names, and Microsoft decides who has which account.
admin.site.unregister((Group, UserSocialAuth, Nonce, Association))


class PersonPasswordForm(PasswordForm):
    """Sets another person's password. Removing a password is always allowed."""

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned["set_usable_password"]:
            try:
                sign_in_details.require_password_allowed(self.user)
            except PortalError as error:
                self.add_error("password1", str(error))  # the page shows errors only next to fields
        return cleaned


@admin.register(User)
class PersonAdmin(PeopleAdmin):
    """People's passwords and roles. The portal's own page disables accounts, because it also ends their sessions."""

    actions = None
    change_password_form = PersonPasswordForm

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fixed: tuple[str, ...] = () if obj is None else ("is_active", "last_login", "date_joined")
        if obj is not None and sign_in_details.signs_in_with_microsoft(obj):
            fixed += ("username", "email")  # they come from the directory
        may_give_rights = roles.current_user(request.user).is_superuser
        return fixed if may_give_rights else (*fixed, "is_staff", "is_superuser", "groups", "user_permissions")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only superusers may change privileged accounts, because a new password would give the rights away."""
        return super().has_change_permission(request, obj) and _may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and _may_touch(request, obj)

    @method_decorator(fresh_sign_in_required())
    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        return super().changeform_view(request, object_id, form_url, extra_context)

    @method_decorator(fresh_sign_in_required())
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        before = self.get_object(request, unquote(id))
        with transaction.atomic():
            response = super().user_change_password(request, id, form_url)
            if before is not None:
                sign_in_details.changed(before, actor=roles.current_user(request.user), now=timezone.now())
        return response

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Save the roles. Changes of the account's rights are recorded, and people are told about them."""
        super().save_related(request, form, formsets, change)
        actor, now = roles.current_user(request.user), timezone.now()
        accounts.rights_changed(form.instance, before=form.rights_before, actor=actor, now=now)
        if form.person_before is not None:
            sign_in_details.changed(form.person_before, actor=actor, now=now)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        form.person_before = User.objects.get(pk=obj.pk) if change else None
        form.rights_before = accounts.rights_of(form.person_before) if change else None
        super().save_model(request, obj, form, change)

    @method_decorator(fresh_sign_in_required())
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
        accounts.remove(obj, actor=roles.current_user(request.user), now=timezone.now())


def _may_touch(request: HttpRequest, person: User | None) -> bool:
    if person is None or roles.current_user(request.user).is_superuser:
        return True
    return accounts.rights_of(person) == accounts.Rights([], staff=False, superuser=False, permissions=[])


def _record(action: AuditAction, request: HttpRequest, person: User, message: Any) -> None:
    """Record the changed fields and the current roles and flags. The password is never recorded."""
    parts = [part.get("changed", {}) for part in message] if isinstance(message, list) else []
    facts: dict[str, Any] = {
        "fields": sorted({field for part in parts for field in part.get("fields", [])}),
        "roles": sorted(person.groups.values_list("name", flat=True)),
        "superuser": person.is_superuser,
        "active": person.is_active,
    }
    audit.record(action, person, actor=roles.current_user(request.user), changes=facts)


class ReadOnly(ModelAdmin):
    """Read-only pages. They don't even load secrets."""

    def get_fields(self, request: HttpRequest, obj: models.Model | None = None) -> Any:
        return [field.name for field in self.model._meta.fields if not isinstance(field, SecretField)]

    get_readonly_fields = get_fields

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        secrets = [field.name for field in self.model._meta.fields if isinstance(field, SecretField)]
        return super().get_queryset(request).defer(*secrets)

    def has_add_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission


class ByService(ModelAdmin):
    """Saves and deletes through services. This happens while the form is validated, so that fields can show the errors."""

    actions = None

    @method_decorator(fresh_sign_in_required())
    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        # Django's method would start a transaction, but the services call Microsoft, which must not happen in one.
        return self._changeform_view(request, object_id, form_url, extra_context)  # type: ignore[attr-defined]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        return type(form.__name__, (form,), {"actor": request.user})

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Do nothing, because the service has already saved it."""

    def save_related(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, as in save_model()."""

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        raise NotImplementedError

    @method_decorator(fresh_sign_in_required())
    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        try:
            return super().delete_view(request, object_id, extra_context)
        except PortalError as error:
            messages.error(request, str(error))
            return redirect(f"admin:connections_{self.model._meta.model_name}_change", object_id)


class ServiceForm(ModelForm):
    """A ModelForm that delegates to one of the portal's own forms and then to a service."""

    actor: User

    def portal_form(self) -> forms.Form:
        raise NotImplementedError

    def call(self, cleaned: dict[str, Any]) -> models.Model:
        raise NotImplementedError

    def _post_clean(self) -> None:
        """Run the portal's form and the service instead of Django's model validation."""
        form = self.portal_form()
        form.full_clean()
        if not form.errors:
            try:
                self.instance = self.call(form.cleaned_data)
            except PortalError as error:
                form.add_error(error.field if error.field in form.fields else None, str(error))
        self._errors = forms.utils.ErrorDict()
        for field, problems in form.errors.as_data().items():
            self.add_error(field if field in self.fields else None, ValidationError(problems))

    def save(self, commit: bool = True) -> Any:
        return self.instance

    def save_m2m(self) -> None:
        """Do nothing, because the service has already saved it."""


class TenantAdminForm(ServiceForm):
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
    """An app registration without its credentials. Those are added on the portal's own page."""

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
        data[self.add_prefix("object_id")] = stored.object_id
        if stored.renews_credentials:
            data[self.add_prefix("renews_credentials")] = "on"
        return AppRegistrationEditForm(data, prefix=self.prefix, app_registration=stored)

    def call(self, cleaned: dict[str, Any]) -> AppRegistration:
        if self.instance.pk is None:
            return app_registrations.register(**cleaned, actor=self.actor)
        stored = AppRegistration.objects.get(pk=self.instance.pk)
        app_registrations.change(stored, **cleaned, actor=self.actor)
        return stored


@admin.register(Tenant)
class TenantAdmin(ByService):
    form = TenantAdminForm
    list_display = ("name", "environment", "directory_id", "tid")
    search_fields = ("name", "directory_id")

    def delete_model(self, request: HttpRequest, obj: Tenant) -> None:
        tenants.remove(obj, actor=roles.current_user(request.user))


@admin.register(AppRegistration)
class AppRegistrationAdmin(ByService):
    form = AppRegistrationAdminForm
    list_display = ("name", "tenant", "client_id", "verified_at", "rejected_at")
    search_fields = ("name", "client_id")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if obj is None else ("tenant", "client_id")

    def delete_model(self, request: HttpRequest, obj: AppRegistration) -> None:
        app_registrations.remove(obj, actor=roles.current_user(request.user))


READ_ONLY = {
    "AppConsent": ("__str__", "seen_at", "rejected_at"),
    "AppCredential": ("__str__", "app_registration", "kind", "expires_at", "retired_at"),
    "Connection": ("name", "owner", "app_registration", "status", "status_since"),
    "SharedMailbox": ("address", "tenant"),
    "MailboxAccess": ("__str__", "state", "probed_at"),
    "ConsentLink": ("__str__", "state", "requested_at"),
    "ConnectionReference": ("name", "connection", "owner", "pointed_at", "removed_at"),
    "ConsentRequest": ("__str__", "state", "requester_name", "asked_at"),
    "Policy": ("__str__", "version", "changed_at"),
    "Approval": ("__str__", "state", "requested_at"),
    "AuditEvent": ("at", "actor_name", "action", "target_name", "outcome"),
}
for name, columns in READ_ONLY.items():
    model = apps.get_model("connections", name)
    admin.site.register(model, type(f"{name}Admin", (ReadOnly,), {"list_display": columns}))
