"""Somebody who writes to the database wants to sign as the portal: Entra would believe every published key."""

from typing import Any

import pytest
from django.db import connection as database
from django.utils import timezone

from connections.errors import AlteredSecret, UnreadableSecret
from connections.microsoft import federation
from connections.models import AppCredential, IssuerKey
from connections.services.registry import issuer
from tests import factories
from tests.stored_secrets import plant

pytestmark = pytest.mark.django_db


def planted(number: int) -> Any:
    """A row as an attacker inserts it, to sign from now on."""
    now = timezone.now()
    return IssuerKey.objects.create(number=number, key_id=f"planted-{number}", created_at=now, use_after=now)


def published() -> set[str]:
    return {key["kid"] for key in issuer.published_keys()["keys"]}


def test_a_planted_key_is_neither_published_nor_used() -> None:
    own = issuer.signing_key(now=timezone.now())
    row = planted(2)
    plant(row, "private_key", federation.generate_key().private_key)
    assert published() == {own.key_id}
    with pytest.raises(UnreadableSecret):
        issuer.signing_key(now=timezone.now())


def test_a_key_encrypted_for_another_place_is_neither_published_nor_used() -> None:
    own = issuer.signing_key(now=timezone.now())
    credential = AppCredential.objects.create(
        app_registration=factories.make_app_registration(secret=None),
        kind="certificate",
        private_key=federation.generate_key().private_key,
    )
    with database.cursor() as cursor:
        cursor.execute("SELECT private_key FROM connections_appcredential WHERE id = %s", [credential.pk])
        (ciphertext,) = cursor.fetchone()
    plant(planted(2), "private_key", ciphertext)
    assert published() == {own.key_id}
    with pytest.raises(AlteredSecret):
        issuer.signing_key(now=timezone.now())
