"""What a client asks for: the body of a chat completion, read strictly."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reasonrl.pacore.errors import PacoreError
from reasonrl.pacore.plan import LEVELS, Plan, read_rounds
from reasonrl.pacore.server.errors import ApiError
from reasonrl.pacore.spec import PlanSpec
from reasonrl.pacore.synthesis import last_user_turn

_REFUSED = ("tools", "tool_choice", "functions", "function_call", "logprobs", "top_logprobs", "audio", "modalities")
_LAST_ONLY = ("stop", "response_format", "guided_json", "guided_regex", "guided_choice", "structured_outputs")
"""They shape what the client reads, and would cut or bend what the rounds before tell each other."""

_NOT_SENT = frozenset(
    ("model", "messages", "stream", "stream_options", "n", "seed", "user", "store", "metadata", "pacore")
)
_OURS = frozenset(("temperature", "top_p", "max_tokens", "max_completion_tokens"))
_SAFE_COMPACTIONS = ("after_think", "none")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class PacoreFields(_Strict):
    """The field `pacore` of a request.

    Attributes:
        rounds: calls of each round, or a level's name.
        budget: tokens that all calls together may generate.
        tolerate: share of a round's calls that may fail.
        compaction: `after_think`, `none` or `after:TAG`.
        show: what of the earlier rounds appears as reasoning: their `messages`, or `none`.
    """

    rounds: list[int] | str | None = None
    budget: int | None = Field(None, ge=1)
    tolerate: float | None = Field(None, ge=0, le=1)
    compaction: str | None = None
    show: Literal["messages", "none"] = "messages"


class StreamOptions(BaseModel):
    """The field `stream_options`."""

    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool = False


class _Turn(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class _Body(BaseModel):
    # What is not named here goes to the upstream as it is.
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    model: str
    messages: list[_Turn] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    pacore: PacoreFields | None = None


@dataclass(frozen=True)
class Offer:
    """What the server offers.

    Attributes:
        model: the name that its own models' names begin with.
        spec: the plan where a request says nothing else.
        max_calls: most calls of one request.
        max_budget: most tokens that a request's calls may generate together; None sets no limit.
    """

    model: str
    spec: PlanSpec
    max_calls: int = 64
    max_budget: int | None = None

    def names(self) -> list[str]:
        """The models: one a level that is not beyond `max_calls`."""
        return [f"{self.model}-pacore-{level}" for level, rounds in LEVELS.items() if sum(rounds) < self.max_calls]


@dataclass(frozen=True)
class Asked:
    """A request that can be answered.

    Attributes:
        model: as the client wrote it.
        level: `low`, `medium`, `high` or `custom`.
        conversation: its messages as they came.
        plan: with the request's own settings.
        tag: after which the answer begins; None where compaction is another.
        seed: the client's, or drawn.
        every, last: fields of the body that go to every call, and to the last one besides.
        stream, usage, show: how it is answered.
    """

    model: str
    level: str
    conversation: list[dict[str, Any]]
    plan: Plan
    tag: str | None
    seed: int
    every: Mapping[str, Any]
    last: Mapping[str, Any]
    stream: bool
    usage: bool
    show: str


def read_asked(body: Any, offer: Offer) -> Asked:
    """What a decoded body asks for.

    Raises:
        ApiError: 400 for what is wrong with it, 404 for a model that is not there.
    """
    if not isinstance(body, dict):
        raise ApiError(400, f"the body is a {type(body).__name__}, not a JSON object")
    for name in _REFUSED:
        if body.get(name) not in (None, False, [], "none", "auto", ["text"]):
            raise ApiError(400, f"{name} is not supported by this server -> leave it out", param=name)
    try:
        read = _Body.model_validate(body)
    except ValidationError as problem:
        raise _explained(problem) from None
    if (read.n or 1) != 1:
        raise ApiError(400, f"n is {read.n}, and this server gives one answer -> ask several times", param="n")
    level, rounds = _rounds(read, offer)
    spec, tag = _spec(read, offer, rounds)
    try:
        plan = spec.plan()
        last_user_turn(body["messages"])
    except PacoreError as problem:
        raise ApiError(400, str(problem)) from None
    rest = {name: value for name, value in body.items() if name not in _NOT_SENT and name not in _OURS}
    own = read.pacore or PacoreFields()
    return Asked(
        model=read.model,
        level=level,
        conversation=body["messages"],
        plan=plan,
        tag=tag,
        seed=read.seed if read.seed is not None else secrets.randbits(31),
        every={name: value for name, value in rest.items() if name not in (*_LAST_ONLY, *_REFUSED)},
        last={name: value for name, value in rest.items() if name in _LAST_ONLY and value is not None},
        stream=bool(read.stream),
        usage=read.stream_options is not None and read.stream_options.include_usage,
        show=own.show,
    )


def _rounds(read: _Body, offer: Offer) -> tuple[str, tuple[int, ...]]:
    """(level, rounds) by the model's name and the request's own rounds."""
    prefix = f"{offer.model}-pacore-"
    level = read.model.removeprefix(prefix) if read.model.startswith(prefix) else ""
    if level not in LEVELS and read.model != offer.model:
        names = ", ".join([*offer.names(), offer.model])
        raise ApiError(
            404, f"there is no model {read.model!r}; there are: {names}", param="model", code="model_not_found"
        )
    rounds = LEVELS.get(level, offer.spec.rounds)
    level = level or "custom"
    if read.pacore is not None and read.pacore.rounds is not None:
        try:
            rounds, level = read_rounds(read.pacore.rounds), "custom"
        except PacoreError as problem:
            raise ApiError(400, str(problem), param="pacore.rounds") from None
    if sum(rounds) + 1 > offer.max_calls:
        raise ApiError(
            400,
            f"rounds {list(rounds)} take {sum(rounds) + 1} calls, and this server makes at most {offer.max_calls} for a"
            " request -> ask for fewer",
            param="pacore.rounds",
        )
    return level, rounds


def _spec(read: _Body, offer: Offer, rounds: tuple[int, ...]) -> tuple[PlanSpec, str | None]:
    own = read.pacore or PacoreFields()
    compaction = own.compaction or offer.spec.compaction
    # A file named by a client would be run here.
    if own.compaction is not None and own.compaction not in _SAFE_COMPACTIONS and own.compaction[:6] != "after:":
        allowed = ", ".join([*_SAFE_COMPACTIONS, "after:TAG"])
        raise ApiError(400, f"compaction {own.compaction!r} -> {allowed}", param="pacore.compaction")
    budgets = [one for one in (own.budget or offer.spec.budget, offer.max_budget) if one is not None]
    spec = replace(
        offer.spec,
        rounds=rounds,
        temperature=offer.spec.temperature if read.temperature is None else read.temperature,
        top_p=offer.spec.top_p if read.top_p is None else read.top_p,
        max_tokens=read.max_completion_tokens or read.max_tokens or offer.spec.max_tokens,
        compaction=compaction,
        tolerate=offer.spec.tolerate if own.tolerate is None else own.tolerate,
        budget=min(budgets) if budgets else None,
    )
    tag = "</think>" if compaction == "after_think" else None
    return spec, compaction.removeprefix("after:") if compaction.startswith("after:") else tag


def _explained(problem: ValidationError) -> ApiError:
    first = problem.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("list[", "str", "constrained")))
    return ApiError(400, f"{name}: {first['msg']}", param=name or None)
