"""What a debug artifact may not say, by tables and for any text."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.debug.redaction import MASK, SHAPES, Redactor, credentials_in, mask_shapes

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nab+/cd==\n-----END RSA PRIVATE KEY-----"
SHAPED = [
    "sk-proj-abcdefghijklmnop0123",
    "sk-ant-api03-AbCdEf_-0123456789",
    "sk-or-v1-0123456789abcdef0123",
    f"ghp_{'a1' * 18}",
    f"gho_{'a1' * 18}",
    f"github_pat_{'a1_' * 12}",
    f"glpat-{'aB3' * 7}",
    "xoxb-123456789012-abcdefABCDEF",
    f"xai-{'a1B' * 10}",
    f"hf_{'aB' * 17}",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    f"AIza{'Sy0' * 11}-_",
    JWT,
    PEM,
    "-----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKCAQEA that was cut",
]
PLAIN = [
    "task-force-of-the-whole-organisation",
    "the sk- prefix, AKIA, eyJ and Bearer are explained in the manual",
    "risk-management-framework-handbook",
    "https://example.com/a:b/c@d",
    "-----BEGIN CERTIFICATE-----\nMIIEpAIBAAKCAQEA\n-----END CERTIFICATE-----",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
]
SECRET = 'hunter2 "of" C:\\x/y+ü'
IMAGE = base64.b64encode(bytes(range(256)) * 4).decode()


@pytest.mark.parametrize("value", SHAPED)
@pytest.mark.parametrize("frame", ["{}", "key={} then", '{{"a": "{}"}}', "a\n{}\nb", "({})"])
def test_what_has_the_shape_of_a_secret_goes(value: str, frame: str) -> None:
    said = mask_shapes(frame.format(value))
    assert MASK in said
    assert re.sub(r"[^A-Za-z0-9]", "", value)[12:28] not in re.sub(r"[^A-Za-z0-9]", "", said)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Basic"])
def test_what_follows_the_name_of_a_scheme_goes(scheme: str) -> None:
    assert mask_shapes(f"with {scheme} abcdEFGH1234= sent") == f"with {scheme} {MASK} sent"


def test_the_credentials_of_a_url_in_a_text_go() -> None:
    assert mask_shapes("clone https://me:pa55@example.com/x.git now") == f"clone https://{MASK}@example.com/x.git now"


@pytest.mark.parametrize("text", PLAIN)
def test_what_only_looks_a_little_like_one_stays(text: str) -> None:
    assert mask_shapes(text) == text


def test_every_shape_is_in_the_table_of_this_test() -> None:
    texts = [*SHAPED, *(f"{scheme} abcdefgh1" for scheme in ("Bearer", "BEARER", "Basic")), "://a:b@"]
    unused = [shape for beginning, shape in SHAPES if not any(beginning in t and shape.search(t) for t in texts)]
    assert unused == []


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=4).filter(lambda s: len(s.strip()) > 3))
def test_a_known_value_is_told_in_no_form(value: str) -> None:
    value = value.strip()
    redactor = Redactor([f" {value}\n"], has_shapes=False)
    inner = json.dumps({"error": value})
    texts = [
        value,
        f"x{value}y",
        json.dumps(value),
        json.dumps(value, ensure_ascii=False),
        json.dumps({"inner": inner}),
    ]
    texts += [f"https://e/?key={quote(value, safe='')}", base64.b64encode(value.encode()).decode()]
    for text in texts:
        assert MASK in redactor.text(text), text


def test_the_longer_of_two_values_goes_whole() -> None:
    assert Redactor(["token", "token-and-more"], has_shapes=False).text("token-and-more") == MASK


def test_a_value_too_short_to_tell_from_other_text_is_not_looked_for() -> None:
    assert Redactor(["abc", ""], has_shapes=False).text("abc") == "abc"


@pytest.mark.parametrize("has_shapes", [True, False])
def test_headers_and_urls_say_no_credentials_at_any_level(has_shapes: bool) -> None:
    redactor = Redactor(["s3cret-value"], has_shapes=has_shapes)
    hidden = ["authorization", "X-Api-Key", "x-goog-api-key", "cookie", "Set-Cookie", "proxy-authorization", "x-token"]
    assert redactor.headers([(name, "v") for name in hidden]) == [(name, MASK) for name in hidden]
    shown = [("anthropic-ratelimit-tokens-remaining", "9"), ("x-request-id", "r"), ("content-type", "a/b")]
    assert redactor.headers(shown) == shown
    assert redactor.headers([("x-a", f"s3cret-value {JWT}")]) == [("x-a", f"{MASK} {MASK}")]
    url = f"https://me:pw@host:1/v1/s3cret-value?key=abc&alt=sse&code={JWT}"
    assert redactor.url(url) == f"https://host:1/v1/{MASK}?key=%5Bredacted%5D&alt=sse&code={MASK}".replace(
        "%5Bredacted%5D", MASK
    )


def test_the_credentials_of_a_request_are_known_with_and_without_their_scheme() -> None:
    found = credentials_in([("Authorization", "Bearer abcd1234"), ("x-api-key", "key-9"), ("accept", "no")])
    assert {"Bearer abcd1234", "abcd1234", "key-9"} <= set(found) and "no" not in found


def test_a_full_body_is_kept_to_the_byte_but_for_known_values() -> None:
    body = json.dumps({"image": IMAGE, "text": f"{JWT} {SECRET}"}, indent=3).encode()
    kept = Redactor([SECRET], has_shapes=False).body(body)
    assert kept == body.decode().replace(json.dumps(SECRET)[1:-1], MASK)


def test_a_redacted_body_has_digests_for_images_and_stays_json() -> None:
    url = f"data:image/png;base64,{IMAGE}"
    body = {"content": [{"data": IMAGE}, {"image_url": url}, {"text": f"a\n{PEM}"}], "n": 1, "key": "sk-" + "a" * 20}
    read = json.loads(Redactor([SECRET], has_shapes=True).body(json.dumps(body).encode()))
    data, image_url, text = (next(iter(part.values())) for part in read["content"])
    assert re.fullmatch(rf"\[{len(IMAGE)} characters of base64, sha256 [0-9a-f]{{64}}\]", data)
    assert image_url == f"data:image/png;base64,{data}"
    assert (text, read["n"], read["key"]) == (f"a\n{MASK}", 1, MASK)


def test_a_body_that_is_no_json_is_text() -> None:
    assert Redactor([], has_shapes=True).body(b"\xff sk-aaaaaaaaaaaaaaaaaaaa") == f"\N{REPLACEMENT CHARACTER} {MASK}"
