# SPDX-License-Identifier: Apache-2.0
"""Cleaning, refusing and hinting at secrets."""

from __future__ import annotations

import pytest

from services.keyvault.domain.credentials import SECRET_BYTES_MAX, clean_secret, hint_of
from services.keyvault.errors import SecretFault, SecretMalformedError
from services.shared.errors import InvalidArgumentError

KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789WXYZ"


@pytest.mark.requirement("K2")
class TestCleaning:
    @pytest.mark.parametrize(
        "pasted",
        [
            KEY,
            f"  {KEY}\r\n",
            f'"{KEY}"',
            f"'{KEY}'",
            f"“{KEY}”",
            f"`{KEY}`",
            f"Bearer {KEY}",
            f"bearer\t{KEY}",
            f'  "Bearer {KEY}" \n',
            f'Bearer "{KEY}"',
            f"\ufeff{KEY}\u200b",
        ],
    )
    def test_what_a_paste_adds_is_removed(self, pasted: str) -> None:
        assert clean_secret(pasted, "openai") == KEY

    @pytest.mark.parametrize("secret", ["whatever-this-is", "sk-1234", "sk_live_x", "bearerish"])
    def test_an_unknown_shape_goes_on_to_the_live_test(self, secret: str) -> None:
        assert clean_secret(secret, "openai") == secret

    def test_a_structured_credential_passes_unchanged(self) -> None:
        text = (
            '{"accessKeyId": "AKIAIOSFODNN7EXAMPLE", "secretAccessKey": "s/e+cret", '
            '"region": "us-east-1"}'
        )
        assert clean_secret(f" {text}\n", "amazon-bedrock") == text

    def test_the_longest_secret_passes_and_one_byte_more_does_not(self) -> None:
        assert clean_secret("k" * SECRET_BYTES_MAX, "openai")
        with pytest.raises(InvalidArgumentError):
            clean_secret("k" * (SECRET_BYTES_MAX + 1), "openai")


@pytest.mark.requirement("K2")
class TestRefusing:
    @pytest.mark.parametrize(
        ("secret", "provider", "fault"),
        [
            ("", "openai", SecretFault.EMPTY),
            ('  "" \n', "openai", SecretFault.EMPTY),
            ("Bearer", "openai", SecretFault.EMPTY),
            ("Bearer  ", "openai", SecretFault.EMPTY),
            ("sk-proj-abc def", "openai", SecretFault.INNER_SPACES),
            ("sk-proj-abc\ndef", "openai", SecretFault.INNER_SPACES),
            ("sk-proj-abc\u200bdef", "openai", SecretFault.INNER_SPACES),
            ("sk-", "openai", SecretFault.TRUNCATED),
            ("sk-proj-", "openai", SecretFault.TRUNCATED),
            ("AIz", "gemini", SecretFault.TRUNCATED),
            ("k-proj-abcdefghijklmnop", "openai", SecretFault.TRUNCATED),
            ("ant-api03-abcdefghijkl", "anthropic", SecretFault.TRUNCATED),
            ("or-v1-0123456789abcdef", "openrouter", SecretFault.TRUNCATED),
            ("sk-or-v1-0123456789abcdef", "openai", SecretFault.OTHER_PROVIDER),
            ("sk-ant-api03-abcdefgh", "openai", SecretFault.OTHER_PROVIDER),
            ("sk-proj-abcdefgh", "openrouter", SecretFault.OTHER_PROVIDER),
            ("AIzaSyAbcdefghijkl", "openai", SecretFault.OTHER_PROVIDER),
            ("sk-proj-…WXYZ", "openai", SecretFault.MASKED),
            ("sk-proj-****WXYZ", "openai", SecretFault.MASKED),
            ("sk-proj-...WXYZ", "openai", SecretFault.MASKED),
            ("sk-proj-xxxxxxxxxxxx", "openai", SecretFault.MASKED),
            ("sk-admin-abcdefghijkl", "openai", SecretFault.ADMIN_KEY),
            ("sk-ant-admin01-abcdefgh", "anthropic", SecretFault.ADMIN_KEY),
            ("sk-ant-admin01-abcdefgh", "openai", SecretFault.OTHER_PROVIDER),
        ],
    )
    def test_positive_evidence_is_refused_with_its_fault(
        self, secret: str, provider: str, fault: SecretFault
    ) -> None:
        with pytest.raises(SecretMalformedError) as refused:
            clean_secret(secret, provider)

        assert refused.value.fault is fault
        assert refused.value.metadata["fault"] == fault.value

    def test_the_refusal_names_the_provider_it_looks_like_and_what_to_do(self) -> None:
        with pytest.raises(SecretMalformedError) as refused:
            clean_secret("sk-or-v1-0123456789abcdef", "openai")

        assert refused.value.metadata["looks_like"] == "openrouter"
        assert "it looks like a key of openrouter" in refused.value.message
        assert "choose that provider" in refused.value.message

    @pytest.mark.parametrize(
        "secret", ["canary canary", "sk-or-v1-canary", "k-proj-canary-canary", "canary****"]
    )
    def test_the_refusal_never_holds_the_secret(self, secret: str) -> None:
        with pytest.raises(SecretMalformedError) as refused:
            clean_secret(secret, "openai")

        told = f"{refused.value!r} {refused.value.message} {refused.value.metadata}"
        assert "canary" not in told
        assert "canary" not in str(refused.value.fields)


@pytest.mark.requirement("K8")
class TestHint:
    @pytest.mark.parametrize(
        ("secret", "hint"),
        [
            ("sk-proj-" + "a" * 16 + "WXYZ", "sk-proj-…WXYZ"),
            ("sk-proj-" + "a" * 15 + "WXYZ", ""),
            ("sk-ant-api03-" + "a" * 16 + "WXYZ", "sk-ant-api03-…WXYZ"),
            ("sk-" + "a" * 16 + "WXYZ", "sk-…WXYZ"),
            ("a" * 16 + "WXYZ", "…WXYZ"),
            ("a" * 15 + "WXYZ", ""),
            ('{"private_key": "abcdefghijklmnopqrstuvwxyz"}', ""),
        ],
    )
    def test_prefix_and_last_four_are_shown_where_sixteen_stay_hidden(
        self, secret: str, hint: str
    ) -> None:
        assert hint_of(secret) == hint
