"""Base class and value types shared by all sections of a recipe."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from tailcut.errors import RecipeError

Dtype = Literal["float32", "float16", "bfloat16"]
Fraction = Annotated[float, Field(ge=0, le=1)]
KeepRatio = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Axes = Literal["all"] | tuple[int, ...]
# What TOML can say and the records in JSON can hold: no dates, no infinity.
if TYPE_CHECKING:
    Arguments = dict[str, Any]
else:
    Arguments = dict[str, JsonValue]


def _flat_names(value: Any) -> Any:
    """TOML reads an unquoted `conv1.weight = 5` as nested tables; tensor names are dotted strings."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, Any] = {}
    for name, item in value.items():
        inner = _flat_names(item)
        flat |= {f"{name}.{rest}": leaf for rest, leaf in inner.items()} if isinstance(inner, dict) else {name: inner}
    return flat


Counts = Annotated[Positive | dict[str, Positive], BeforeValidator(_flat_names)]


class RecipeSection(BaseModel):
    """Base of all sections: values cannot be changed, unknown keys are refused."""

    # Nobody means the text "no" as true, or true as one epoch.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _lists_to_tuples(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


class ModelSection(RecipeSection):
    """The network: a registered name and its arguments."""

    name: str
    arguments: Arguments = {}


def check_unused(useless: Mapping[str, bool], *, of: str, instead: Mapping[str, str] | None = None) -> None:
    """Refuse keys that would have no effect.

    Args:
        useless: for each key whether the recipe uses it.
        of: what they have no meaning for.
        instead: what to do in place of a key.

    Raises:
        RecipeError: names the first key that is used.
    """
    for key, is_used in useless.items():
        if is_used:
            raise RecipeError(f"{key}: has no meaning for {of}, leave it out{(instead or {}).get(key, '')}")
