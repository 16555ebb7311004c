"""A model behind an OpenAI-compatible endpoint, as an evaluation names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from reasonrl.recipe.fields import OPERATIONAL, Config, Count, Positive, Text


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class EndpointSource(Config):
    """Where the model answers; the names are those of `reasonrl.endpoints.EndpointConfig`.

    Attributes:
        base_url: up to and with `/v1`; several are several servers of one model.
        model: the name that the server knows the model by.
        api_key_env: name of the environment variable with the key.
        extra_body: put into every request, such as `{chat_template_kwargs: {enable_thinking: false}}`.
    """

    base_url: Annotated[tuple[Text, ...], BeforeValidator(_several), Field(min_length=1), OPERATIONAL]
    model: Text
    extra_body: dict[str, Any] = Field(default_factory=dict)
    api_key_env: Annotated[Text | None, OPERATIONAL] = None
    headers: Annotated[dict[str, Text] | None, OPERATIONAL] = None
    headers_env: Annotated[dict[str, Text] | None, OPERATIONAL] = None
    max_concurrency: Annotated[Count | None, OPERATIONAL] = None
    requests_per_minute: Annotated[Positive | None, OPERATIONAL] = None
    connect_timeout: Annotated[Positive | None, OPERATIONAL] = None
    timeout: Annotated[Positive | None, OPERATIONAL] = None
    call_timeout: Annotated[Positive | None, OPERATIONAL] = None
    max_retries: Annotated[Count | None, OPERATIONAL] = None
    price: Annotated[dict[str, float] | None, OPERATIONAL] = None
    budget: Annotated[dict[str, float] | None, OPERATIONAL] = None

    hints: ClassVar[Mapping[str, str]] = {
        "url": "base_url",
        "urls": "base_url",
        "api_key": "api_key_env",
        "concurrency": "max_concurrency",
        "name": "model",
        "served_model": "model",
    }

    def settings(self) -> dict[str, Any]:
        """What was given, as the client takes it."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
