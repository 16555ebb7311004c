"""Settings of an endpoint: where, which model, how fast, how patient, how much."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from reasonrl.endpoints.errors import EndpointSettingsError
from reasonrl.plugins import near

_NAME_OF_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRET_HEADERS = re.compile(r"(?i)auth|key|token|cookie|secret")
_LOCAL = ("127.", "localhost", "[::1]", "0.0.0.0")


class _Frozen(BaseModel):
    # hide_input_in_errors: a key written where the name of its variable belongs must not appear in a message
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class Price(_Frozen):
    """Money a million tokens, in the currency of the budget."""

    input: float = Field(0.0, ge=0)
    output: float = Field(0.0, ge=0)


class Budget(_Frozen):
    """What one client may use up in one process; None is no limit.

    Requests are counted when they are sent, retries included, so that limit is exact. Tokens and cost are known when a
    reply has come: they may be passed by what was under way then.
    """

    max_requests: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_cost: float | None = Field(None, gt=0)


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class EndpointConfig(_Frozen):
    """An OpenAI-compatible endpoint, with plain values only: it pickles, and it holds no secret.

    Attributes:
        base_url: up to and with `/v1`; several are several servers of one model.
        model: the name that the server knows the model by.
        api_key_env: name of the environment variable with the key; None sends none.
        headers: further headers without secrets.
        headers_env: header -> name of the environment variable with its value.
        max_concurrency: requests under way at once, over all servers and threads of this process.
        requests_per_minute: evenly spaced; None does not space them.
        connect_timeout: seconds to a connection.
        timeout: seconds to a whole reply, of one request.
        call_timeout: seconds of one call with all its retries and pauses, from when its turn has come.
        max_retries: further requests after a failed one.
        backoff: pause before the first retry in seconds, doubled at each, times a uniform number in [0.5, 1].
        max_backoff: longest such pause. A server's Retry-After is honoured whatever its length.
        retry_statuses: the HTTP statuses after which it is worth asking again.
        price: cost a million tokens.
        budget: limits on requests, tokens and cost.
        cache: file of the replies so far, made where there is none; None keeps none.
        extra_body: put into every request, such as `{chat_template_kwargs: {enable_thinking: false}}`.

    Raises:
        EndpointSettingsError: an unknown name or a value that cannot be; every problem at once.
    """

    base_url: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(min_length=1)
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    headers_env: dict[str, str] = Field(default_factory=dict)
    max_concurrency: int = Field(16, ge=1)
    requests_per_minute: float | None = Field(None, gt=0)
    connect_timeout: float = Field(10.0, gt=0)
    timeout: float = Field(300.0, gt=0)
    call_timeout: float = Field(1800.0, gt=0)
    max_retries: int = Field(8, ge=0)
    backoff: float = Field(0.5, gt=0)
    max_backoff: float = Field(30.0, gt=0)
    retry_statuses: tuple[int, ...] = (408, 409, 425, 429, 500, 502, 503, 504)
    price: Price = Field(default_factory=Price)
    budget: Budget = Field(default_factory=Budget)
    cache: str | None = None
    extra_body: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(data)
        except ValidationError as problem:
            raise EndpointSettingsError(_explain(problem)) from None

    @classmethod
    def of(cls, settings: EndpointConfig | Mapping[str, Any]) -> EndpointConfig:
        """The settings that a recipe's mapping says; settings themselves are passed on."""
        if isinstance(settings, EndpointConfig):
            return settings
        if not isinstance(settings, Mapping):
            raise EndpointSettingsError(
                f"endpoint is a {type(settings).__name__} -> give a mapping with base_url and model"
            )
        return cls(**{str(name): value for name, value in settings.items()})

    @field_validator("base_url")
    @classmethod
    def _addresses(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("takes http://host:port/v1 or https://…/v1")
            if parts.username or parts.password or parts.query or parts.fragment:
                raise ValueError("holds a user, password, query or fragment -> name the variable in api_key_env")
        cleaned = tuple(value.rstrip("/") for value in values)
        if len(set(cleaned)) < len(cleaned):
            raise ValueError("names one server twice")
        return cleaned

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not _NAME_OF_VARIABLE.fullmatch(value):
            raise ValueError(
                "takes the name of an environment variable (capitals, digits, underscores), never the key itself"
            )
        return value

    @field_validator("headers_env")
    @classmethod
    def _variables(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value.values():
            cls._variable(name)
        return value

    @field_validator("headers")
    @classmethod
    def _open_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if _SECRET_HEADERS.search(name):
                raise ValueError(f"holds {name!r}, which looks like a secret -> name its variable in headers_env")
        return value

    def secret_headers(self) -> dict[str, str]:
        """The headers whose values come from the environment, read now and kept nowhere.

        Raises:
            EndpointSettingsError: a variable is not set, or is empty.
        """
        found = {header: self._from_environment(name, "headers_env") for header, name in self.headers_env.items()}
        if self.api_key_env is not None:
            found["Authorization"] = f"Bearer {self._from_environment(self.api_key_env, 'api_key_env')}"
        return found

    @staticmethod
    def _from_environment(name: str, setting: str) -> str:
        value = os.environ.get(name, "").strip()
        if not value:
            raise EndpointSettingsError(
                f"endpoint {setting}: the environment variable {name} is not set -> export {name}=…"
            )
        return value


def is_local(url: str) -> bool:
    """True for a server on this machine: no proxy of the environment is asked for it."""
    return urlsplit(url).netloc.rpartition("@")[2].startswith(_LOCAL)


_GROUPS: dict[tuple[Any, ...], type[BaseModel]] = {(): EndpointConfig, ("price",): Price, ("budget",): Budget}


def _explain(problem: ValidationError) -> str:
    lines = []
    for error in problem.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in error["loc"])
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            allowed = _GROUPS[error["loc"][:-1]].model_fields
            message = f"is no setting of an endpoint{near(str(error['loc'][-1]), allowed)}"
        lines.append(f"endpoint {name}: {message}")
    return "\n".join(lines)
