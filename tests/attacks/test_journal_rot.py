"""Bits and pages of a journal are changed. An undo or a resumed run writes nothing else, and says what it left out."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any, cast

import pytest
from power import Service, edit_slots, memory_folder

from aiomutex import JournalError, SlotEdit
from aiomutex.bulk import undo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUPS = 12
PLACES = [(group, slot) for group in range(1, GROUPS + 1) for slot in (1, 2, 3)]
EDITS = [
    SlotEdit(group, slot, experiments=[100 + n], individuals=[f"user-{n}-{each}@example.com" for each in range(20)])
    for n, (group, slot) in enumerate(PLACES * 2)
]


def flip(path: Path, rng: random.Random) -> str:
    """Flip one bit, half of the time one in a byte that is not 0, as most of a small file is empty."""
    data = bytearray(path.read_bytes())
    places = [place for place, byte in enumerate(data) if byte] if rng.random() < 0.5 else range(len(data))
    place, bit = rng.choice(places), rng.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with memory_folder(tmp_path) as folder:
        yield folder


FLIPS = [100, pytest.param(1_000, marks=pytest.mark.deep)]


@pytest.mark.parametrize("flips", FLIPS)
async def test_an_undo_with_a_flipped_bit_writes_nothing_else_and_reports_what_it_left_out(
    folder: Path, flips: int
) -> None:
    service = Service(GROUPS)
    await edit_slots(service, folder / "kept.db", EDITS)
    original = Service(GROUPS).contents
    rejected = partial = 0
    for seed in range(flips):
        rng = random.Random(seed)
        path = folder / f"{seed}.db"
        shutil.copyfile(folder / "kept.db", path)
        where = flip(path, rng)
        after = Service(GROUPS)
        after.contents = {place: dict(lists) for place, lists in service.contents.items()}
        try:
            report = await undo(cast("Any", after), path, force=rng.random() < 0.5)
        except JournalError:
            assert not after.writes, where
            rejected += 1
            continue
        finally:
            path.unlink()
        assert len(report.outcomes) == len(PLACES), where
        restored = {
            (str(each.edit.group_id), each.edit.slot_index) for each in report.outcomes if each.status == "applied"
        }
        for place, lists in after.contents.items():
            written = "experiments", "individuals"
            source = original if place in restored else service.contents
            assert lists == service.contents[place] | {name: source[place][name] for name in written}, where
        partial += len(restored) < len(PLACES)
        assert all(isinstance(each.error, JournalError) for each in report.outcomes if each.status != "applied"), where
    assert rejected
    assert partial


@pytest.mark.parametrize("flips", FLIPS)
async def test_a_resumed_run_with_a_flipped_bit_writes_nothing_but_its_edits(folder: Path, flips: int) -> None:
    half = Service(GROUPS)
    await edit_slots(half, folder / "kept.db", EDITS)
    wanted: dict[tuple[str, int], dict[str, Any]] = half.contents
    rejected = 0
    for seed in range(flips):
        rng = random.Random(seed)
        path = folder / f"{seed}.db"
        shutil.copyfile(folder / "kept.db", path)
        where = flip(path, rng)
        after = Service(GROUPS)
        after.contents = {place: dict(lists) for place, lists in wanted.items()}
        try:
            report = await edit_slots(after, path, EDITS)
        except JournalError:
            rejected += 1
            assert not after.writes, where
            continue
        finally:
            path.unlink()
        assert {outcome.status for outcome in report.outcomes} <= {"applied", "skipped"}, where
        assert after.contents == wanted, where
    assert rejected


async def test_an_undo_with_a_page_overwritten_by_another_is_an_error_or_reports_what_it_left_out(folder: Path) -> None:
    service = Service(GROUPS)
    await edit_slots(service, folder / "kept.db", EDITS)
    data = (folder / "kept.db").read_bytes()
    pages = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    original = Service(GROUPS).contents
    for lost in range(1, len(pages)):
        for kept in {lost - 1, lost + 1} & {*range(1, len(pages))}:
            path = folder / f"{lost}-{kept}.db"
            path.write_bytes(b"".join([*pages[:lost], pages[kept], *pages[lost + 1 :]]))
            after = Service(GROUPS)
            after.contents = {place: dict(lists) for place, lists in service.contents.items()}
            try:
                report = await undo(cast("Any", after), path)
            except JournalError:
                assert not after.writes, path.name
                continue
            assert len({(each.edit.group_id, each.edit.slot_index) for each in report.outcomes}) == len(PLACES), path
            assert report.failed or after.contents == original, path.name
