"""How pydantic validates, serializes and describes a struct. Imported only when pydantic asks for it."""

from __future__ import annotations

import ast
import contextlib
import inspect
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Union, get_args

import msgspec
from pydantic import ConfigDict, Field, create_model
from pydantic_core import core_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import GetCoreSchemaHandler


def schema_of(struct: type[msgspec.Struct], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    """Return the schema of a model with the fields of the struct, whose values are structs, in camelCase as in JSON."""
    fields: dict[str, Any] = {}
    descriptions = _descriptions(struct)
    for field in msgspec.structs.fields(struct):
        given = [each for each in get_args(field.type) if each is not msgspec.UnsetType]
        kind = Union[tuple(given)] if len(given) < len(get_args(field.type)) else field.type  # noqa: UP007  # its members are a list
        default: dict[str, Any] = {} if field.required else {"default_factory": lambda: None}  # is never used
        description = descriptions.get(field.name)
        fields[field.name] = (kind, Field(alias=field.encode_name, description=description, **default))
    about, _, _ = (inspect.getdoc(struct) or "").partition("\n\nExample:")
    model = create_model(struct.__name__, __config__=ConfigDict(populate_by_name=True), __doc__=about, **fields)

    def to_struct(value: object, validate: Callable[[object], Any]) -> msgspec.Struct:
        if isinstance(value, struct):
            return value
        valid = validate(value)
        return struct(**{name: getattr(valid, name) for name in valid.model_fields_set})

    to_json = core_schema.plain_serializer_function_ser_schema(msgspec.to_builtins)
    return core_schema.no_info_wrap_validator_function(to_struct, handler.generate_schema(model), serialization=to_json)


def _descriptions(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Read the strings below the fields of a class, which do not exist at run time."""
    found: dict[str, str] = {}
    for base in struct.__mro__:
        with contextlib.suppress(OSError, TypeError):  # without source: not installed, or C
            body: list[ast.stmt] = getattr(ast.parse(inspect.getsource(base)).body[0], "body", [])
            for field, text in pairwise(body):
                about = text.value if isinstance(text, ast.Expr) else None
                if isinstance(field, ast.AnnAssign) and isinstance(about, ast.Constant):
                    found.setdefault(ast.unparse(field.target), inspect.cleandoc(str(about.value)))
    return found
