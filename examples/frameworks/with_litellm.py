"""LiteLLM: given a wrapped client, it sends nothing that is refused, and says so in its own error."""

from __future__ import annotations

import os

# LiteLLM fetches its list of prices when it is imported, unless it is told not to.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm
from openai import OpenAI

from fluxai import Governor, Policy, Refused
from fluxai.testing import FakeProvider


def refusal_in(error: BaseException | None) -> Refused | None:
    """Find our refusal in the chain of an error that was made of it."""
    while error is not None and not isinstance(error, Refused):
        error = error.__cause__ or error.__context__
    return error


def main(provider: FakeProvider) -> None:
    key = os.environ.get("OPENAI_API_KEY")
    governor = Governor()
    governor.policies.put(
        Policy(id="day", tenant_id="acme", limit_type="daily", limit_value="0.01")
    )
    client = governor.wrap(
        OpenAI(api_key=key or "none", base_url=None if key else provider.openai_url),
        tenant="acme",
    )
    litellm.suppress_debug_info = True
    messages = [{"role": "user", "content": "Name a river."}]
    for _ in range(3):
        try:
            answer = litellm.completion(
                model="openai/gpt-4o", messages=messages, max_tokens=300, client=client
            )
        except litellm.InternalServerError as error:
            refused = refusal_in(error)
            if refused is None:
                raise
            print(f"{type(error).__name__}, in truth {type(refused).__name__}: {refused}")
        else:
            print(answer.choices[0].message.content)
    print(f"{len(governor.events())} calls, ${governor.usage('acme').total_cost} spent")


with FakeProvider() as provider:
    # Without a key this answers.
    for river in ("The Rhine.", "The Rhône."):
        provider.answer(river, usage={"input": 400, "output": 300})
    main(provider)
