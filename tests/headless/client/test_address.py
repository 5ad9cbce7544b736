from __future__ import annotations

import pytest
from attention_patchbay.headless.client.address import Address, WrongAddress

GOOD = {
    "127.0.0.1:8188": ("http://127.0.0.1:8188", "ws://127.0.0.1:8188/ws", True),
    "http://[::1]:8188/": ("http://[::1]:8188", "ws://[::1]:8188/ws", True),
    "127.0.0.1:8188/?token=HUNT//ER2": ("http://127.0.0.1:8188", "ws://127.0.0.1:8188/ws", True),
    "http://localhost/?user=me@far.at": ("http://localhost", "ws://localhost/ws", True),
    "https://u:pass@far.at/comfy/?token=abcd": (
        "https://far.at/comfy",
        "wss://far.at/comfy/ws",
        False,
    ),
}


@pytest.mark.parametrize("text", GOOD)
def test_an_address_is_read(text: str) -> None:
    address = Address.of(text)
    assert (address.url, address.socket, address.is_here) == GOOD[text]


def test_who_asks_goes_along_and_is_not_shown() -> None:
    address = Address.of("https://u:p%40ss@host/?token=abcd&x=", {"X-Key": "secret key"})
    assert address.headers == {"X-Key": "secret key", "Authorization": "Basic dTpwQHNz"}
    assert address.query(clientId="1") == "token=abcd&x=&clientId=1"
    assert address.plain("no: secret key, abcd, dTpwQHNz\x1b[1m") == "no: ***, ***, ***?[1m"
    assert not any(part in repr(address) for part in ("secret", "abcd", "dTpw"))


@pytest.mark.parametrize(
    "text",
    ["", "http://", "ftp://host", "http://host:99999", "http://host:x", "http://[::1", "http://a b", "http://h/\x1b"]
    + ["http://host:0", "http://" + "a" * 70, "http://a..b", "http://x\\y"],
)
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(WrongAddress, match="is no address of a server; write one such as http"):
        Address.of(text)


def test_the_error_of_a_wrong_address_or_header_shows_no_secret() -> None:
    for text in ("http://user:hunter2@host:99999?token=hunter2", "ftp://user:hunter2@host"):
        with pytest.raises(WrongAddress) as caught:
            Address.of(text)
        assert "hunter2" not in str(caught.value)
    for name, value in (("X Y", "hunter2"), ("X", "hunter2\r\nY: z"), ("X", "hunter2\u0416")):
        with pytest.raises(WrongAddress) as caught:
            Address.of("host", {name: value})
        assert "hunter2" not in str(caught.value)


SECRET = [
    "http://127.0.0.1:99999/?token=HUNT//ER2",
    "127.0.0.1:99999/?token=HUNT//ER2",
    "http://h/?token=HUNTER2 //x",
    "http://bob:pa//HUNTER2@127.0.0.1:99999",
    "http://bob:1/HUNTER2@127.0.0.1:1",
    "http://bob:1?HUNTER2@127.0.0.1:1",
    "http://bob:1#HUNTER2@127.0.0.1:1",
    "http://bob:HUNT@ER2?x@127.0.0.1:1",
    "bob:HUNTER2/x@127.0.0.1:1",
    "ftp://h/#HUNTER2",
]


@pytest.mark.parametrize("text", SECRET)
def test_what_may_be_secret_in_a_wrong_address_is_not_shown(text: str) -> None:
    with pytest.raises(WrongAddress, match="is no address of a server") as caught:
        Address.of(text)
    assert not any(part in str(caught.value) for part in ("HUNT", "ER2", "bob", "pa//"))


ECHOED = [
    ("host/?token=ab%2FHUNT%2BER2", "GET /?token=ab%2FHUNT%2BER2 token=ab%2fHUNT%2bER2 ab/HUNT+ER2 ab/HUNT%2BER2"),
    ("host/?token=HUNT+ER2", "GET /?token=HUNT+ER2 token=HUNT%20ER2 HUNT ER2"),
    ("host/?HUNTER2", "GET /?HUNTER2 HUNTER2="),
    ("host/?token=HUNT%22%3CER2", 'HUNT&quot;&lt;ER2 HUNT\\"<ER2 HUNT"<ER2'),
    ("bob:HUNTER2@host", "no such user: bob:HUNTER2, HUNTER2, Basic Ym9iOkhVTlRFUjI="),
]


@pytest.mark.parametrize(("text", "said"), ECHOED)
def test_an_echo_shows_no_secret_in_whatever_writing(text: str, said: str) -> None:
    address = Address.of(text)
    assert not any(part in address.plain(said) for part in ("HUNT", "ER2", "Ym9i"))
    found = address.hidden({"message": said, "list": [said, 3, None], "number": 1.5})
    assert "HUNT" not in str(found) and found["list"][1:] == [3, None] and found["number"] == 1.5


def test_names_of_headers_have_no_case() -> None:
    headers = {"authorization": "Bearer old", "AUTHORIZATION": "Bearer new"}
    assert Address.of("u:pass@host", headers).headers == {"AUTHORIZATION": "Bearer new"}
