# SPDX-License-Identifier: Apache-2.0
"""Requests for text that are refused by field, whatever the state of the system."""

from __future__ import annotations

import pytest
from ownkey.router.v1 import text_pb2 as pb

from services.router.rpc.mapping_text import text_request
from services.shared.errors import InvalidArgumentError

ASKED = pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="Hi")])
CALLED = pb.Message(
    role=pb.ROLE_ASSISTANT,
    parts=[pb.Part(tool_call=pb.ToolCall(id="known", name="tool", arguments_json="{}"))],
)
TOOL = pb.Tool(name="tool")


def result(call_id: str) -> pb.Message:
    """Give the result of a call."""
    part = pb.Part(tool_result=pb.ToolResult(tool_call_id=call_id, content="done"))
    return pb.Message(role=pb.ROLE_TOOL, parts=[part])


def read(text: pb.TextInput) -> None:
    """Read a request that holds it."""
    text_request(
        pb.GenerateTextRequest(
            account="accounts/demo",
            request_id="6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11",
            input=text,
        )
    )


@pytest.mark.requirement("R1", "R11")
@pytest.mark.parametrize(
    ("text", "field", "named"),
    [
        (
            pb.TextInput(messages=[ASKED, CALLED, result("other")]),
            "input.messages[2].parts[0].tool_result.tool_call_id",
            "'other'",
        ),
        (
            pb.TextInput(messages=[result("known"), CALLED]),
            "input.messages[0].parts[0].tool_result.tool_call_id",
            "'known'",
        ),
        (
            pb.TextInput(
                messages=[ASKED],
                tools=[TOOL],
                tool_choice=pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED, name="missing"),
            ),
            "input.tool_choice.name",
            "'missing' is none of the tools, which are tool",
        ),
        (
            pb.TextInput(
                messages=[ASKED], tool_choice=pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED, name="tool")
            ),
            "input.tool_choice",
            "needs tools",
        ),
    ],
    ids=["another call", "before its call", "no such tool", "no tools"],
)
def test_a_tool_that_nobody_knows_is_refused_by_its_field(
    text: pb.TextInput, field: str, named: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        read(text)
    assert caught.value.metadata["field"] == field
    assert named in caught.value.message


@pytest.mark.requirement("R1")
def test_the_result_of_an_earlier_call_is_taken() -> None:
    read(pb.TextInput(messages=[ASKED, CALLED, result("known")], tools=[TOOL]))
