from django import forms

from connections.models import SavedView
from connections.validators import NameField


class SavedViewForm(forms.Form):
    name = NameField(label="View name")
    page = forms.ChoiceField(choices=SavedView.Page.choices, widget=forms.HiddenInput)
    query = forms.CharField(required=False, max_length=1000, widget=forms.HiddenInput)
