from datetime import timedelta
from typing import Any

from django import forms

from connections.access import querysets
from connections.forms.ownership_transfer import GrantField
from connections.forms.pickers import PickerField
from connections.forms.recipients import RecipientsField
from connections.models import BulkAction, Share, User
from connections.services.connections.bulk_options import Options
from connections.validators import CUT, KEEP, LastDayField, TagsField

Action = BulkAction.Action


class BulkShareForm(forms.Form):
    """The recipients of all the shares, their role, and until when the shares last."""

    recipients = RecipientsField(label="Share with")
    level = forms.ChoiceField(
        label="Role", choices=Share.Level.choices, initial=Share.Level.USE, widget=forms.RadioSelect
    )
    until = LastDayField(
        label="Expires on",
        required=False,
        help_text="Expires at the end of this day (UTC). Leave empty for no expiration.",
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["recipients"].people = querysets.accounts()  # type: ignore[attr-defined]
        self.fields["recipients"].teams = querysets.visible_teams(user)  # type: ignore[attr-defined]

    def options(self) -> Options:
        people, teams = self.cleaned_data["recipients"]
        return Options(people=people, teams=teams, level=self.cleaned_data["level"], until=self.cleaned_data["until"])


class BulkTransferForm(forms.Form):
    """The new owner of all the connections."""

    new_owner = PickerField("owners", label="New owner", help_text="Name, user name or email address.")
    grant = GrantField()

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["new_owner"].people = querysets.possible_owners()  # type: ignore[attr-defined]

    def options(self) -> Options:
        return Options(owner=self.cleaned_data["new_owner"], keep_grant=self.cleaned_data["grant"] == KEEP)


class BulkTagsForm(forms.Form):
    """The tags to add to all the connections, or to remove from them."""

    tags = TagsField()

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def options(self) -> Options:
        return Options(tags=self.cleaned_data["tags"])


OptionsForm = BulkShareForm | BulkTransferForm | BulkTagsForm
_FORMS: dict[str, type[OptionsForm]] = {
    Action.SHARE: BulkShareForm,
    Action.TRANSFER: BulkTransferForm,
    Action.TAG: BulkTagsForm,
    Action.UNTAG: BulkTagsForm,
}


def options_form(bulk_action: BulkAction, options: Options, data: Any, *, user: User) -> OptionsForm | None:
    """Return the form for the action's options, filled in with the current options; None if the action has none."""
    form_class = _FORMS.get(bulk_action.action)
    if form_class is None:
        return None
    initial: dict[str, Any] = {}
    if bulk_action.is_previewed:
        until = options.until
        initial = {
            "recipients": options.recipients,
            "level": options.level,
            "until": (until - timedelta(days=1)).date() if until else None,
            "new_owner": options.owner,
            "grant": KEEP if options.keep_grant else CUT,
            "tags": ", ".join(options.tags),
        }
    return form_class(data, user=user, initial=initial)
