"""Settings that all judges behind an endpoint share: how they are sampled, and the form of their replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.judges.asking import Sampling

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointClient

ReplyForm = Literal["json_schema", "json_object", "text"]


def judge_sampling(
    judge: str,
    *,
    votes: int,
    temperature: float | None,
    max_tokens: int,
    seed: int | None,
    re_asks: int,
    extra: Mapping[str, Any] | None = None,
) -> Sampling:
    """The sampling of a judge; a temperature of None is 0 for one vote, else 1.

    Raises:
        RewardError: a number is out of range; it names the judge.
    """
    for setting, value, least in (("votes", votes, 1), ("max_tokens", max_tokens, 1), ("re_asks", re_asks, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise RewardError(f"{judge}: {setting}={value!r} -> give a whole number from {least} on")
    if temperature is None:
        temperature = 0.0 if votes == 1 else 1.0
    return Sampling(temperature, max_tokens, seed, re_asks, extra or {})


def response_format(judge: str, reply: str, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """What asks a server for replies of a form: `json_schema`, `json_object`, or `text` (not at all).

    Raises:
        RewardError: another form; it names the judge.
    """
    if reply not in get_args(ReplyForm):
        raise RewardError(f"{judge}: reply {reply!r} is unknown{near(reply, get_args(ReplyForm))}")
    if reply == "text":
        return {}
    if reply == "json_object":
        return {"response_format": {"type": "json_object"}}
    named = {"name": name, "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def sampling_settings(client: EndpointClient, sampling: Sampling) -> dict[str, Any]:
    """What of the endpoint and the sampling changes a judge's answers."""
    return {
        "judge": client.config.model,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "re_asks": sampling.re_asks,
        "extra_body": dict(client.config.extra_body),
    }
