# SPDX-License-Identifier: Apache-2.0
"""
The policy file: read once, at start, and checked against the RPCs that are served.

    identities:
      router:
        certificates: ["spiffe://ownkey.internal/router"]    # any of these shows it
        token: true                                          # and so does its token file
    rules:
      - identities: [anonymous, acme]
        rpcs: ["ownkey.ledger.v1.LedgerService/GetBalance"]  # or LedgerService/* for all
        accounts: ["accounts/acme-*"]                        # left out: all accounts

`anonymous`, who calls in plain text on loopback without a token, is always there. Every fault is
reported at once, by its line; a changed policy takes effect at the next start.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from services.shared.config import ConfigError
from services.shared.identity import ANONYMOUS
from services.shared.policy import ACCOUNT_PATTERN, Policy, account_paths, matches

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

POLICY_BYTES_MAX = 1024 * 1024
_TOP = ("identities", "rules")
_IDENTITY = ("certificates", "token")
_RULE = ("identities", "rpcs", "accounts")
_IDENTITY_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]+(?:/[A-Za-z0-9._-]+)+")
_DNS = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


def load_policy(path: Path, service: ServiceDescriptor) -> Policy:
    """
    Read a policy.

    Args:
        path: The file, YAML.
        service: What is served; the policy names its RPCs and no others.

    Raises:
        ConfigError: With every problem found.
    """
    try:
        with path.open("rb") as file:
            text = file.read(POLICY_BYTES_MAX)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as fault:
        problem = f"the policy {path} cannot be read ({fault.strerror}); put it there, readable"
        raise ConfigError([problem]) from fault
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = f"the policy {path}{line} is not YAML; mend it there"
        raise ConfigError([problem]) from fault
    reader = _Reader(path, service)
    policy = reader.read(root)
    if reader.problems:
        raise ConfigError(reader.problems)
    return policy


@dataclass(slots=True)
class _Reader:
    """Reads a policy's nodes, keeping every problem."""

    path: Path
    service: ServiceDescriptor
    problems: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    grants: dict[tuple[str, str], tuple[str, ...] | None] = field(default_factory=dict)
    paths: dict[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)

    def read(self, root: yaml.Node | None) -> Policy:
        """Read the whole file; what is wrong with it is in `problems` afterwards."""
        top = self._mapping(root, "the file", _TOP, required=_TOP)
        for method in self.service.methods:
            # A stream of requests is admitted before it is read, so no account is known then.
            paths = () if method.client_streaming else account_paths(method.input_type)
            self.paths[self._rpc(method.name)] = paths
        known = {ANONYMOUS}
        for name, node in self._mapping(top.get("identities"), "identities", None).items():
            known.add(name)
            self._read_identity(name, node)
        for number, node in enumerate(self._sequence(top.get("rules"), "rules"), 1):
            self._read_rule(f"rule {number}", node, known)
        return Policy(
            identity_of_name=self.names,
            with_token=frozenset(self.tokens),
            grants=self.grants,
            account_paths=self.paths,
        )

    def _read_identity(self, name: str, node: yaml.Node) -> None:
        if not _IDENTITY_NAME.fullmatch(name) or name == ANONYMOUS:
            self._tell(node, f"'{name}' cannot be an identity's name; use a-z, 0-9 and '-'")
        fields = self._mapping(node, name, _IDENTITY)
        if "certificates" in fields:
            for shown in self._texts(fields["certificates"], f"{name}.certificates"):
                self._read_name(name, shown, fields["certificates"])
        if "token" in fields:
            token = _value(fields["token"])
            if not isinstance(token, bool):
                self._tell(fields["token"], f"{name}.token must be true or false")
            elif token:
                self.tokens.add(name)
        if not fields.keys() & set(_IDENTITY):
            self._tell(node, f"nothing shows '{name}'; give it certificates, or token: true")

    def _read_name(self, identity: str, name: str, node: yaml.Node) -> None:
        if not (_SPIFFE.fullmatch(name) or _DNS.fullmatch(name)):
            self._tell(
                node, f"'{name}' is neither a SPIFFE URI, spiffe://domain/path, nor a DNS name"
            )
        elif self.names.setdefault(name, identity) != identity:
            self._tell(node, f"'{name}' shows both {self.names[name]} and {identity}; keep one")

    def _read_rule(self, where: str, node: yaml.Node, known: Collection[str]) -> None:
        fields = self._mapping(node, where, _RULE, required=_RULE[:2])
        if not {"identities", "rpcs"} <= fields.keys():
            return
        identities = self._texts(fields["identities"], f"{where}.identities")
        for name in identities:
            if name not in known:
                self._tell(fields["identities"], _nearest("identity", name, known))
        rpcs = self._read_rpcs(where, fields["rpcs"])
        accounts = None
        if "accounts" in fields:
            accounts = self._read_accounts(where, fields["accounts"])
            for rpc in (one for one in rpcs if not self.paths[one]):
                self._tell(
                    fields["rpcs"],
                    f"{rpc[1:]} names no account; put it into a rule without accounts",
                )
        for grant in ((identity, rpc) for identity in identities for rpc in rpcs):
            if grant in self.grants:
                self._tell(node, f"{grant[0]} is allowed {grant[1][1:]} twice; keep one")
            self.grants[grant] = accounts

    def _read_rpcs(self, where: str, node: yaml.Node) -> list[str]:
        all_of_it = f"{self.service.full_name}/*"
        found: list[str] = []
        for name in self._texts(node, f"{where}.rpcs"):
            if name == all_of_it:
                found += self.paths
            elif f"/{name}" in self.paths:
                found.append(f"/{name}")
            else:
                choices = [*(rpc[1:] for rpc in self.paths), all_of_it]
                self._tell(node, _nearest("RPC of this service", name, choices))
        return found

    def _read_accounts(self, where: str, node: yaml.Node) -> tuple[str, ...]:
        accounts = self._texts(node, f"{where}.accounts")
        for account in accounts:
            if not ACCOUNT_PATTERN.fullmatch(account):
                self._tell(
                    node, f"'{account}' must be as accounts/acme, or accounts/acme-* for a prefix"
                )
            for wider in (one for one in accounts if one != account and matches(account, one)):
                self._tell(node, f"'{account}' lies within '{wider}'; keep the one that is meant")
        return tuple(accounts)

    def _rpc(self, method: str) -> str:
        return f"/{self.service.full_name}/{method}"

    def _mapping(
        self,
        node: yaml.Node | None,
        where: str,
        allowed: Sequence[str] | None,
        *,
        required: Sequence[str] = (),
    ) -> Mapping[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            if node is not None or where == "the file":
                self._tell(node, f"{where} must be a mapping")
            return {}
        found: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = str(_value(key_node))
            if allowed is not None and key not in allowed:
                self._tell(key_node, f"{where}: {_nearest('key', key, allowed)}")
            elif key in found:
                self._tell(key_node, f"{where}: '{key}' stands there twice; keep one")
            else:
                found[key] = value
        for key in required:
            if key not in found:
                self._tell(node, f"{where} needs the key '{key}'")
        return found

    def _sequence(self, node: yaml.Node | None, where: str) -> Sequence[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        if node is not None:
            self._tell(node, f"{where} must be a list")
        return []

    def _texts(self, node: yaml.Node, where: str) -> Sequence[str]:
        items = self._sequence(node, where)
        texts: list[str] = []
        for item in items:
            text = _value(item)
            if not isinstance(text, str):
                self._tell(item, f"{where} must be a list of texts")
            elif text in texts:
                self._tell(item, f"{where}: '{text}' stands there twice; keep one")
            else:
                texts.append(text)
        if isinstance(node, yaml.SequenceNode) and not items:
            self._tell(node, f"{where} is empty; name one at least, or leave the rule out")
        return texts

    def _tell(self, node: yaml.Node | None, problem: str) -> None:
        line = f", line {node.start_mark.line + 1}" if node is not None else ""
        self.problems.append(f"the policy {self.path}{line}: {problem}")


def _value(node: yaml.Node) -> Any:
    """Return a scalar's value; None for what is no scalar."""
    if not isinstance(node, yaml.ScalarNode):
        return None
    return yaml.SafeLoader("").construct_object(node)


def _nearest(kind: str, name: str, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0)
    return f"'{name}' is no {kind}; the nearest one is '{near[0]}'"
