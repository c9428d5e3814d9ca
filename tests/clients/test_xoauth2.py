"""The XOAUTH2 string, in the client and on the command line."""

import base64

import pytest
from m365_portal import xoauth2


def test_it_is_the_string_of_microsofts_example() -> None:
    raw = xoauth2.sasl_response("test@contoso.onmicrosoft.com", "EwBAAl3BAAUFFpUAo7J3Ve0bjLBWZWCclRC3EoAA")
    assert raw == b"user=test@contoso.onmicrosoft.com\x01auth=Bearer EwBAAl3BAAUFFpUAo7J3Ve0bjLBWZWCclRC3EoAA\x01\x01"
    assert base64.b64decode(xoauth2.encoded("a@b.example", "t")) == b"user=a@b.example\x01auth=Bearer t\x01\x01"


@pytest.mark.parametrize(
    ("mailbox", "token"), [("", "t"), ("a@b.example\x01auth=Bearer x", "t"), ("a@b.example", "t\n")]
)
def test_nothing_else_can_be_smuggled_in(mailbox: str, token: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        xoauth2.encoded(mailbox, token)
