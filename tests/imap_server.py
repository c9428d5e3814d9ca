"""A real IMAP server (Dovecot) that accepts the sandbox's tokens as Exchange Online would.

It validates them locally with the sandbox's published keys, and checks issuer, audience, permission, account and expiry.
Applications may open only the mailboxes in ``for_applications``, as after Add-MailboxPermission.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from portal.sandbox.process import free_port

DOVECOT = shutil.which("dovecot", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_START = 20.0  # seconds

_CONFIG = """
base_dir = {root}/run
state_dir = {root}/state
log_path = {root}/log
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = xoauth2 oauthbearer
auth_username_format = %Lu
mail_location = maildir:{root}/mail/%u
first_valid_uid = 1
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
{checks}userdb {{
  driver = static
  args = uid=dovecot gid=dovecot home={root}/mail/%u
}}
"""
# Each check validates the token and compares one claim. Only who passes the first of a pair is asked for the second.
_PASSDB = """
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {root}/{name}.conf
  username_filter = {mailboxes}
  skip = {skip}
  result_success = {success}
  result_failure = {failure}
}}
"""
_FIRST = {"skip": "authenticated", "success": "continue-ok", "failure": "continue"}
_SECOND = {"skip": "unauthenticated", "success": "return-ok", "failure": "return-fail"}
_CHECK = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={root}/keys/
issuers = https://sts.windows.net/{tenant}/
active_attribute = {claim}
active_value = {value}
username_attribute = {username}
username_format = {username_format}
"""
_OF_PEOPLE = {"username": "upn", "username_format": "%Lu"}
# An application's token names no mailbox, so that the names on both sides are replaced by the same word.
_OF_APPLICATIONS = {"username": "sub", "username_format": "application"}
_CHECKS = (
    ("people_audience", "aud", "https://outlook.office.com", _FIRST, _OF_PEOPLE),
    ("people_permission", "scp", "IMAP.AccessAsUser.All", _SECOND, _OF_PEOPLE),
    ("applications_audience", "aud", "https://outlook.office365.com", _FIRST, _OF_APPLICATIONS),
    ("applications_permission", "roles", "IMAP.AccessAsApp", _SECOND, _OF_APPLICATIONS),
)


@contextlib.contextmanager
def imap_server(sandbox_url: str, tenant: str, *, for_applications: Sequence[str]) -> Iterator[int]:
    """Run the server, and yield its port on the loopback interface. Skips the test where Dovecot cannot run."""
    if DOVECOT is None or os.geteuid() != 0:
        reason = "Dovecot (dovecot-imapd) isn't installed, or only root can start its processes."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Not below pytest's own directory, which the server's other users cannot enter.
    root = Path(tempfile.mkdtemp(prefix="portal-imap-"))
    process = None
    try:
        root.chmod(0o755)
        port = free_port()
        _write(root, port, sandbox_url, tenant, for_applications)
        process = subprocess.Popen([DOVECOT, "-F", "-c", root / "dovecot.conf"])
        _wait_for(port, process, root)
        yield port
    finally:
        if process is not None:
            process.terminate()
            process.wait(10)
        shutil.rmtree(root, ignore_errors=True)


def _write(root: Path, port: int, sandbox_url: str, tenant: str, for_applications: Sequence[str]) -> None:
    passdbs = []
    for name, claim, value, order, username in _CHECKS:
        mailboxes = "*" if username is _OF_PEOPLE else " ".join(for_applications)
        passdbs.append(_PASSDB.format(root=root, name=name, mailboxes=mailboxes, **order))
        check = _CHECK.format(root=root, tenant=tenant, claim=claim, value=value, **username)
        (root / f"{name}.conf").write_text(check)
    (root / "dovecot.conf").write_text(_CONFIG.format(root=root, port=port, checks="".join(passdbs)))
    (root / "mail").mkdir()
    shutil.chown(root / "mail", "dovecot", "dovecot")
    (root / "state").mkdir()
    keys = requests.get(f"{sandbox_url}/{tenant}/discovery/v2.0/keys", timeout=20).json()["keys"]
    for key in keys:
        path = root / "keys" / "default" / key["alg"] / key["kid"]
        path.parent.mkdir(parents=True, exist_ok=True)
        public = jwt.PyJWK(key).key
        path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _wait_for(port: int, process: subprocess.Popen[bytes], root: Path) -> None:
    end = time.monotonic() + _START
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    log = (root / "log").read_text() if (root / "log").exists() else ""
    raise RuntimeError(f"Dovecot didn't start: {log}")
