"""Sessions that stay safe even if someone can read or write the database.

A row is found by the digest of the key in the cookie, and its data is signed for this row only. A session ends
SESSION_IDLE_MINUTES after its last use, and at the latest SESSION_MAX_HOURS after the sign-in. The row contains this
time.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import db
from django.utils import timezone

from connections.models import Session
from connections.models.sessions import data_salt

# The session key for the details of its sign-in: at (Unix time), method, address and browser.
SIGN_IN = "sign_in"
ANONYMOUS_LIFETIME = timedelta(hours=1)  # for sign-ins that are not complete
SEEN_EVERY = timedelta(minutes=1)  # the time between two updates of when the session was last used


class SessionStore(db.SessionStore):
    row: Session | None = None  # as loaded from the database

    @classmethod
    def get_model_class(cls) -> type[Session]:
        return Session

    @property
    def key_salt(self) -> str:
        return data_salt(digest_of(self.session_key or ""))

    def _get_session_from_db(self) -> Session | None:
        rows = Session.objects.filter(session_key=digest_of(self.session_key or ""))
        self.row = rows.filter(expire_date__gt=timezone.now()).first()
        if self.row is None:
            self._session_key = None
        return self.row

    def exists(self, session_key: str) -> bool:
        return Session.objects.filter(session_key=digest_of(session_key)).exists()

    def create_model_instance(self, data: dict[str, Any]) -> Session:
        now = timezone.now()
        digest = digest_of(self._get_or_create_session_key())  # type: ignore[attr-defined]
        row = Session(session_key=digest, session_data=self.encode(data), seen_at=now)
        if SESSION_KEY in data:
            sign_in = data.get(SIGN_IN, {})
            row.person_id = int(data[SESSION_KEY])
            row.signed_in_at = datetime.fromtimestamp(sign_in["at"], UTC) if sign_in else now
            row.address = sign_in.get("address")
            row.browser, row.method = sign_in.get("browser", ""), sign_in.get("method", "")
            row.expire_date = _end(row.signed_in_at, now)
        else:
            row.expire_date = min(self.get_expiry_date(modification=now), now + ANONYMOUS_LIFETIME)
        return row

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key:
            Session.objects.filter(session_key=digest_of(key)).delete()

    def note_use(self, now: datetime) -> None:
        """Postpone the idle timeout of a signed-in session, at most once a minute. An ended session stays ended."""
        row = self.row
        if row is None or row.signed_in_at is None or now - row.seen_at < SEEN_EVERY:
            return
        end = _end(row.signed_in_at, now)
        Session.objects.filter(session_key=row.session_key).update(seen_at=now, expire_date=end)


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _end(signed_in_at: datetime, now: datetime) -> datetime:
    idle_end = now + timedelta(minutes=settings.SESSION_IDLE_MINUTES)
    return min(idle_end, signed_in_at + timedelta(hours=settings.SESSION_MAX_HOURS))
