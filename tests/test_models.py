"""The structs of the API: frozen, equal by value, and encoded as JSON and back."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
import pytest

import aiomutex
from aiomutex import (
    UNSET,
    CreatedGroup,
    GroupPage,
    MutexGroup,
    NewGroup,
    NewSlot,
    Slot,
    SlotEdit,
    bulk,
    plan,
    probe,
    traffic,
)

MODELS: list[Any] = [
    Slot(index=1, percentage=100),
    MutexGroup(id="7", slots=[]),
    GroupPage(groups=[]),
    NewSlot(percentage=100),
    NewGroup(project_id=1, name="n", slots=[]),
    CreatedGroup(id="7", url=None, key="k"),
    SlotEdit("7", 1, experiments=[1]),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_models_are_frozen_equal_by_value_and_copied_with_changes(model: Any) -> None:
    field = model.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(model, field, 1)
    assert msgspec.structs.replace(model) == model
    assert type(model).__name__ in repr(model)


def test_a_slot_edit_keeps_its_group_as_a_string_and_its_lists_are_keyword_only() -> None:
    assert SlotEdit(7, 1, experiments=[1]).group_id == "7"
    assert SlotEdit("7", 1) == SlotEdit(group_id=7, slot_index=1)
    assert SlotEdit("7", 1).experiments is UNSET
    positional: Any = SlotEdit
    with pytest.raises(TypeError):
        positional("7", 1, [1])


def test_models_can_be_encoded_as_json_and_decoded() -> None:
    edit = SlotEdit("7", 1, holdouts=[], individuals=["u"])
    assert msgspec.json.decode(msgspec.json.encode(edit), type=SlotEdit) == edit
    group = MutexGroup(id="7", slots=[Slot(index=1, percentage=100, cohorts=["c", 5])])
    assert msgspec.json.decode(msgspec.json.encode(group), type=MutexGroup) == group


def test_default_lists_are_not_shared() -> None:
    Slot(index=1, percentage=1).experiments.append(5)
    assert Slot(index=1, percentage=1).experiments == []


PUBLIC: list[Any] = [
    struct
    for module in (aiomutex, bulk, plan, probe, traffic)
    for name in module.__all__
    if isinstance(struct := getattr(module, name), type) and issubclass(struct, msgspec.Struct)
]
POSITIONAL = {"SlotEdit", "SlotChange", "Review"}
"""Structs that are made with positional arguments."""


@pytest.mark.parametrize("struct", PUBLIC, ids=lambda struct: struct.__name__)
def test_what_the_library_returns_cannot_be_changed_and_may_get_more_fields(struct: Any) -> None:
    assert struct.__struct_config__.frozen
    kinds = {parameter.kind for parameter in inspect.signature(struct).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY} or struct.__name__ in POSITIONAL


def test_every_public_name_exists_and_is_documented() -> None:
    for name in aiomutex.__all__:
        value = getattr(aiomutex, name)
        assert name in {"UNSET", "UnsetType"} or value.__doc__, name
