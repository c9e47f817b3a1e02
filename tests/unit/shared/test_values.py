# SPDX-License-Identifier: Apache-2.0
"""Secrets, names, ids, fingerprints and page tokens."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.errors import InvalidArgumentError
from services.shared.fingerprint import canonical, fingerprint
from services.shared.ids import new_id, parse_uuid
from services.shared.names import ResourceName
from services.shared.paging import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, PageTokens, page_size
from services.shared.secret import Secret

CANARY = "sk-proj-canary-0123456789abcdef"
KEYS = ResourceName("accounts/{account}/keys/{key}")


@pytest.mark.requirement("K8")
class TestSecret:
    def test_no_rendering_shows_the_value(self) -> None:
        secret = Secret(CANARY)
        for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{[secret]}"):
            assert "canary" not in shown

    def test_it_cannot_be_copied_pickled_compared_or_hashed(self) -> None:
        secret = Secret(CANARY)
        for attempt in (
            lambda: pickle.dumps(secret),
            lambda: copy.deepcopy(secret),
            lambda: secret == Secret(CANARY),
            lambda: hash(secret),
        ):
            with pytest.raises(TypeError) as failure:
                attempt()
            assert "canary" not in str(failure.value)

    def test_it_is_revealed_on_request_only(self) -> None:
        assert Secret(CANARY).reveal() == CANARY
        assert Secret(CANARY.encode()).reveal_bytes() == CANARY.encode()


class TestNames:
    def test_parsing_undoes_formatting(self) -> None:
        name = KEYS.format(account="acme", key="main-1")
        assert KEYS.parse(name, "name") == {"account": "acme", "key": "main-1"}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "accounts/acme",
            "accounts/Acme/keys/main",
            "accounts/acme/keys/-main",
            "accounts/acme/keys/main-",
            "accounts/acme/keys/main/versions/1",
            "accounts/acme/keys/" + "a" * 64,
            "accounts/acme\n/keys/main",
            "accounts/acme/keys/main\n",
        ],
    )
    def test_another_shape_is_refused_with_the_field(self, text: str) -> None:
        with pytest.raises(InvalidArgumentError) as failure:
            KEYS.parse(text, "key.name")
        assert failure.value.fields[0].field == "key.name"


class TestIds:
    def test_a_new_id_is_a_valid_one(self) -> None:
        assert parse_uuid(new_id(), "request_id")

    @pytest.mark.parametrize(
        "text", ["", "1", "not-a-uuid", "{0b8b3c0e-6d0f-4f43-9d2b-0c1f6a3f5a10}"]
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidArgumentError):
            parse_uuid(text, "request_id")


class TestFingerprint:
    @given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
    def test_different_lists_never_give_the_same_bytes(
        self, one: list[bytes], two: list[bytes]
    ) -> None:
        assert (canonical(one) == canonical(two)) == (one == two)

    @pytest.mark.requirement("R15")
    def test_it_depends_on_key_version_names_and_values(self) -> None:
        key, fields = Secret(b"k" * 32), [("model", b"m"), ("text", b"t")]
        base = fingerprint(key, version=1, fields=fields)
        others = [
            fingerprint(Secret(b"j" * 32), version=1, fields=fields),
            fingerprint(key, version=2, fields=fields),
            fingerprint(key, version=1, fields=fields[:1]),
            fingerprint(key, version=1, fields=[("model", b"m"), ("text", b"u")]),
        ]
        assert base not in others
        assert len(set(others)) == len(others)


class TestPaging:
    def test_a_token_continues_its_own_query(self) -> None:
        tokens = PageTokens(b"key")
        assert tokens.decode("list a", tokens.encode("list a", "cursor 7")) == "cursor 7"
        assert tokens.decode("list a", "") == ""

    @pytest.mark.parametrize("token", ["!", "AAAA", "é", "x" * 200])
    def test_a_made_up_token_is_refused(self, token: str) -> None:
        with pytest.raises(InvalidArgumentError):
            PageTokens(b"key").decode("list a", token)

    def test_a_token_of_another_query_is_refused(self) -> None:
        tokens = PageTokens(b"key")
        with pytest.raises(InvalidArgumentError):
            tokens.decode("list b", tokens.encode("list a", "cursor 7"))

    def test_page_sizes_are_defaulted_coerced_or_refused(self) -> None:
        assert page_size(0) == PAGE_SIZE_DEFAULT
        assert page_size(7) == 7
        assert page_size(PAGE_SIZE_MAX + 1) == PAGE_SIZE_MAX
        with pytest.raises(InvalidArgumentError):
            page_size(-1)
