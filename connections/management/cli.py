"""Runs the portal's forms on the command line. Secrets are never arguments, because every local user can read those."""

import os
import sys
from argparse import ArgumentParser
from contextlib import suppress
from pathlib import Path
from typing import Any

from django import forms
from django.core.files.uploadedfile import SimpleUploadedFile, UploadedFile
from django.core.management.base import CommandError
from django.utils.datastructures import MultiValueDict

from connections import domain_names
from connections.forms import credentials as credential_forms
from connections.models import Tenant, User

SECRET_VARIABLE = "CLIENT_SECRET"  # noqa: S105 - the name of a variable


def cleaned(form: forms.Form) -> dict[str, Any]:
    """Return the form's cleaned data. Raises CommandError with one line per error."""
    if form.is_valid():
        return form.cleaned_data
    lines = [
        f"{'' if field == '__all__' else field.replace('_', '-') + ': '}{problem}"
        for field, problems in form.errors.items()
        for problem in problems
    ]
    raise CommandError("\n".join(lines))


def find_actor(username: str) -> User | None:
    """Return the person to record as the actor, or None without a ``username``.

    Raises CommandError if no active person has this user name.
    """
    if not username:
        return None
    person = User.objects.filter(username=username, is_active=True, left_at=None).first()
    if person is None:
        raise CommandError(f"No active person has the user name {username}.")
    return person


def find_tenant(name: str) -> Tenant:
    """Find a tenant by its name or directory ID. Raises CommandError if there is none."""
    directory_id = name.lower()
    with suppress(UnicodeError):  # not every name can be a domain
        directory_id = domain_names.to_ascii(name)
    tenant = Tenant.objects.filter(name=name).first() or Tenant.objects.filter(directory_id=directory_id).first()
    if tenant is None:
        known = ", ".join(Tenant.objects.values_list("name", flat=True)[:20]) or "none"
        raise CommandError(f"The tenant “{name}” doesn't exist. Existing tenants: {known}.")
    return tenant


def add_actor_argument(parser: ArgumentParser) -> None:
    parser.add_argument("--actor", default="", help="user name to record in the audit trail")


def add_credential_arguments(parser: ArgumentParser) -> None:
    # If abbreviations were allowed, "--secret VALUE" would mean --secret-file, and show the secret to every local user.
    parser.allow_abbrev = False
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--secret-file",
        default="",
        help=f"file with the client secret, or - for standard input (or set {SECRET_VARIABLE})",
    )
    given.add_argument(
        "--generate-certificate", type=int, metavar="MONTHS", help="generate a certificate in the portal"
    )
    given.add_argument("--certificate-file", default="", help="PFX, or PEM with certificate and key")
    parser.add_argument("--key-file", default="", help="PEM with the private key, if it is in a separate file")
    parser.add_argument("--password-file", default="", help="file with the password of the certificate or key file")
    parser.add_argument("--expires", default="", help="when the client secret expires: YYYY-MM-DD, like 2027-03-31")
    parser.add_argument("--label", default="", help="to tell several credentials apart")
    parser.add_argument("--untried", action="store_true", help="save it even when Microsoft cannot be asked now")


def credential_form(options: dict[str, Any]) -> credential_forms.CredentialForm:
    """Return the portal's form, filled in from the options of add_credential_arguments."""
    data: dict[str, Any] = {"label": options["label"], "expires_at": options["expires"]}
    files: MultiValueDict[str, UploadedFile[Any]] = MultiValueDict()
    if options["generate_certificate"] is not None:
        data |= {"kind": credential_forms.GENERATE, "months": options["generate_certificate"]}
    elif options["certificate_file"]:
        data |= {"kind": credential_forms.UPLOAD, "file_password": _text(options["password_file"])}
        for name in ("certificate_file", "key_file"):
            if options[name]:
                files[name] = SimpleUploadedFile(Path(options[name]).name, _bytes(options[name]))
    else:
        secret = _text(options["secret_file"]) or os.environ.get(SECRET_VARIABLE, "")
        data |= {"kind": credential_forms.SECRET, "secret": secret}
    return credential_forms.CredentialForm(data, files)


def _text(path: str) -> str:
    if not path:
        return ""
    text = sys.stdin.read() if path == "-" else _bytes(path).decode("utf-8-sig", "replace")
    return text.strip("\r\n")


def _bytes(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(credential_forms.MAX_UPLOAD + 1)
    except OSError as problem:
        raise CommandError(f"{path} can't be read: {problem.strerror}.") from problem
